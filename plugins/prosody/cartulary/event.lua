-- Puts a stanza and everything the server knows about it into the fields of an event.

local wire = require "cartulary.wire";
local recipients = require "cartulary.recipients";
local jid_bare = require "util.jid".bare;
local now = require "util.time".now;
local new_id = require "util.id".short;

local concat, floor = table.concat, math.floor;
local text, u8 = wire.text, wire.u8;

local event = {};

-- Ingress.
event.CLIENT, event.REMOTE, event.COMPONENT, event.INTERNAL = 1, 2, 3, 4;

-- The name of a session or stream, fit for records: those that have none of the server's get one. Never a
-- BOSH session's sid, which lets whoever knows it speak for the user.
function event.session_id(session)
	local id = session.id or session.cartulary_id;
	if not id then
		id = new_id();
		session.cartulary_id = id;
	end
	return id;
end

-- What a client's session adds to each of its events changes hardly ever: encoded once.
local of_session = setmetatable({}, { __mode = "k" });

local function session_fields(session, jid)
	local known = of_session[session];
	if known and known.jid == jid and known.ip == session.ip and known.secure == session.secure then
		return known.bytes;
	end
	local bytes = concat {
		u8(1, event.CLIENT), text(2, session.host), text(4, jid),
		text(8, event.session_id(session)),
		session.ip and text(9, session.ip) or "",
		u8(10, session.secure and 1 or 0),
	};
	of_session[session] = { jid = jid, ip = session.ip, secure = session.secure, bytes = bytes };
	return bytes;
end

local function stream_fields(ingress, host, origin, from)
	return concat {
		u8(1, ingress), text(2, host), text(4, from),
		origin and text(8, event.session_id(origin)) or "",
		origin and origin.ip and text(9, origin.ip) or "",
		u8(10, origin and origin.secure and 1 or 0),
	};
end

function event.recipient(tag, r)
	local parts = { text(1, r.bare), r.occupant and text(2, r.occupant) or "" };
	for i = 1, #r do parts[i + 2] = text(3, r[i]); end
	return text(tag, concat(parts));
end

-- The fields of the event of a message with this id, seen `at` (seconds; now if nil), its target, for a room its object, the bare JID it is for, and the recipients named. `host` took the stanza in.
-- The stanza is serialised here and nowhere else.
function event.describe(event_id, ingress, host, origin, stanza, at)
	local from = stanza.attr.from or host;
	local own = origin and origin.username and origin.username.."@"..origin.host or jid_bare(from);
	local target, list, room, bare, room_jid = recipients.of(stanza, own);
	local parts = {
		ingress == event.CLIENT and session_fields(origin, origin.full_jid) or stream_fields(ingress, host, origin, from),
		text(3, tostring(stanza)),
		stanza.attr.to and text(5, stanza.attr.to) or "",
		u8(6, target),
		wire.time(11, floor((at or now()) * 1e6)),
		room_jid and text(12, room_jid) or "",
		text(13, event_id),
		room_jid and not room and u8(16, 0) or "",
	};
	for i = 1, #list do parts[#parts + 1] = event.recipient(7, list[i]); end
	return concat(parts), target, room, bare, list;
end

-- The fields of the event of another stanza, with this id. `about`: { subject, ingress, host, from, target, recipients, room (JID),
-- of_rooms, no_room }.
function event.other(event_id, origin, stanza, about)
	local parts = {
		about.ingress == event.CLIENT and session_fields(origin, about.from) or stream_fields(about.ingress, about.host, origin, about.from),
		text(3, tostring(stanza)),
		stanza.attr.to and text(5, stanza.attr.to) or "",
		u8(6, about.target),
		wire.time(11, floor(now() * 1e6)),
		about.room and text(12, about.room) or "",
		text(13, event_id),
		text(14, about.subject),
		about.of_rooms and u8(15, 1) or "",
		about.no_room and u8(16, 0) or "",
	};
	for i = 1, #about.recipients do parts[#parts + 1] = event.recipient(7, about.recipients[i]); end
	return concat(parts);
end

return event;
