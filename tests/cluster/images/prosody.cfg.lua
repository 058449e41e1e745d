-- What the image runs when nothing is mounted over it: one host, logs to the console.
modules_enabled = { "disco"; "roster"; "saslauth"; "tls"; "dialback"; "ping"; "register"; }
log = { info = "*console" }
certificates = "certs"
VirtualHost "localhost"
Include "/etc/prosody/conf.d/*.cfg.lua"
