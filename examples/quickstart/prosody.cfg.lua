-- Prosody as its owner wrote it: nothing here knows of recording.
modules_enabled = {
	"roster"; "saslauth"; "tls"; "disco"; "ping"; "blocklist"; "carbons"; "smacks"; "offline"; "register";
}

log = { info = "*console" }
pidfile = "/run/prosody/prosody.pid"
storage = "internal"
authentication = "internal_hashed"

-- For the demonstration only, inside the pod network: accounts are made by the clients themselves, and streams are not
-- encrypted, because there is no certificate yet. A real server has one, and the opposite of these three lines.
allow_registration = true
c2s_require_encryption = false
s2s_require_encryption = false

VirtualHost "chat.example"

Component "rooms.chat.example" "muc"
	name = "Rooms of chat.example"
	restrict_room_creation = false
