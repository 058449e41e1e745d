-- Notices: what happens to sessions and rooms, told and never waited for. And hello with its snapshot.

local wire = require "cartulary.wire";
local link = require "cartulary.link";
local session_id = require "cartulary.event".session_id;
local now = require "util.time".now;
local log = require "util.logger".init("cartulary");

local text, u8, u16, u64, concat = wire.text, wire.u8, wire.u16, wire.u64, table.concat;

local notices = { VERSION = "0.1.0" };

local tags = { jid = 3, room = 4, occupant = 5, address = 6, mechanism = 7, session = 9, reason = 10, stanza = 11, value = 12 };

local function encode(name, details, snapshot)
	local parts = { text(1, name), wire.time(2, math.floor(now() * 1e6)), snapshot and u8(8, 1) or "" };
	for key, tag in pairs(tags) do
		if details[key] then parts[#parts + 1] = text(tag, details[key]); end
	end
	return concat(parts);
end

-- Tells a notice. `details`: jid, room, occupant, address, mechanism, session, reason, stanza, value; each a text or nil.
function notices.tell(name, details)
	link.tell_in_turn(wire.NOTICE, encode(name, details));
end

-- A body of ours threw at `where`.
function notices.hook_failed(where, problem)
	log("error", "Failed in %s: %s", where, problem);
	-- The problem's first line names file and line; a longer text could quote the message.
	local first = tostring(problem):match("^[^\n]*"):sub(1, 200);
	pcall(notices.tell, "hook-failed", { reason = where..": "..first });
end

-- What a session's notices say.
function notices.session(session)
	return {
		jid = session.full_jid, address = session.ip, mechanism = session.cartulary_mechanism,
		session = session_id(session),
	};
end

function notices.occupant(room, occupant)
	return { room = room.jid, occupant = occupant.nick, jid = occupant.bare_jid };
end

local USERS, ROOMS, EXTERNAL, OTHER = 1, 2, 3, 4;

local function host_type(host)
	if host.type == "local" then return USERS; end
	return host.modules.muc and ROOMS or host.modules.component and EXTERNAL or OTHER;
end

local function host_fields(name, host, problem)
	local armed = host.modules.cartulary_host and host.modules.cartulary_host.armed;
	local parts = { text(1, name), u8(2, host_type(host)) };
	for _, hook in ipairs(armed or {}) do parts[#parts + 1] = text(3, hook); end
	if not armed then parts[#parts + 1] = text(4, problem or "the plugin is not loaded there"); end
	return text(7, concat(parts));
end

-- Tells hello. `counts` as link.start() describes; `problems` by host.
function notices.hello(instance, counts, problems)
	local parts = {
		u16(1, 1), u16(2, 1), text(3, notices.VERSION), text(4, "Prosody"), text(5, prosody.version or "unknown"), text(6, instance),
	};
	for name, host in pairs(prosody.hosts) do parts[#parts + 1] = host_fields(name, host, problems[name]); end
	parts[#parts + 1] = text(8, u64(1, counts.delivered)..u64(2, counts.refused)..wire.time(3, counts.since)..u64(4, counts.lost));
	link.tell(wire.HELLO, concat(parts));
end

-- Tells every session and every occupant of a room, then the end.
function notices.snapshot()
	for _, session in pairs(prosody.full_sessions) do
		link.tell(wire.NOTICE, encode("session-up", notices.session(session), true));
	end
	for _, host in pairs(prosody.hosts) do
		local muc = host.modules.muc;
		if muc then
			for room in muc.each_room(true) do
				for _, occupant in room:each_occupant() do
					link.tell(wire.NOTICE, encode("occupant-joined", notices.occupant(room, occupant), true));
				end
			end
		end
	end
	link.tell(wire.SNAPSHOT_END, "");
end

return notices;
