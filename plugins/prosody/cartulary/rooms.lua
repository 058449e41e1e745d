-- Notices of rooms: what happens in them, told where the room library says so and never waited for.
--
-- Invariant: nothing here changes what the room does, whatever another module's handler answers.

local notices = require "cartulary.notices";
local jid = require "util.jid";

local jid_bare, jid_resource = jid.bare, jid.resource;
local running = coroutine.running;

local rooms = {};

-- Handlers of ours that tell what is about to happen come after those that may prevent it.
local LAST = -100000;

-- The muc#admin or muc#owner iq a coroutine is handling: it brought about what is told meanwhile.
local commands = setmetatable({}, { __mode = "k" });

-- Wraps the events of these iqs.
function rooms.command(handlers, name, event)
	local thread = running();
	commands[thread] = event.stanza;
	local ok, result = pcall(handlers, name, event);
	commands[thread] = nil;
	if not ok then error(result, 0); end
	return result;
end

local function command()
	return commands[running()];
end

local function text(stanza)
	return stanza and tostring(stanza) or nil;
end

local function who(stanza)
	return stanza and stanza.attr.from and jid_bare(stanza.attr.from) or nil;
end

-- Roles by occupant JID, by room: the room library says what a role is, not that it has changed.
local roles = setmetatable({}, { __mode = "k" });

local function occupant_changed(event, occupant, reason, value, stanza)
	notices.tell("occupant-changed", {
		room = event.room.jid, occupant = occupant.nick, jid = occupant.bare_jid, reason = reason, value = value, stanza = text(stanza),
	});
end

local function occupancy(name, event, nick, reason)
	notices.tell(name, { room = event.room.jid, occupant = nick, jid = event.occupant.bare_jid, reason = reason, stanza = text(event.stanza) });
end

local function presence_told(event)
	local occupant, room = event.occupant, event.room;
	local known = roles[room] or {};
	roles[room] = known;
	local before, after = known[occupant.nick], occupant.role;
	known[occupant.nick] = after;
	if before and after and before ~= after then
		occupant_changed(event, occupant, "role", after, command() or event.stanza);
	end
end

local function left(event)
	local known = roles[event.room];
	if known then known[event.nick] = nil; end
	-- The room tells a change of nick only as leaving; the presence that asked for it says more.
	local presence = event.stanza;
	local nick = presence and presence.attr.type ~= "unavailable" and presence.attr.to;
	local changes = nick and nick ~= event.nick;
	occupancy("occupant-left", event, event.nick, changes and "nick changed" or nil);
	if changes then occupancy("occupant-joined", event, nick, "nick changed"); end
end

local function shown(presence)
	return presence and presence:get_child_text("show") or "available", presence and presence:get_child_text("status") or "";
end

-- An occupant's presence that nothing prevents any more but a nickname that somebody else has.
local function changes(event)
	local orig, dest, presence = event.orig_occupant, event.dest_occupant, event.stanza;
	if orig.nick ~= dest.nick then
		if not event.is_first_session and orig.bare_jid ~= dest.bare_jid then return; end
		return occupant_changed(event, orig, "nick", jid_resource(dest.nick), presence);
	end
	local show, status = shown(presence);
	local show_before, status_before = shown(orig:get_presence(presence.attr.from));
	if show ~= show_before or status ~= status_before then occupant_changed(event, orig, "availability", show, presence); end
end

-- A room makes a message of nothing but its new subject, and only where it is new.
local function broadcast(event)
	local stanza, room = event.stanza, event.room;
	if #stanza.tags ~= 1 or stanza.tags[1].name ~= "subject" then return; end
	local nick = stanza.attr.from;
	local occupant = nick and room:get_occupant_by_nick(nick);
	notices.tell("subject-changed", {
		room = room.jid, occupant = occupant and nick, jid = occupant and occupant.bare_jid, stanza = text(stanza),
		value = stanza.tags[1]:get_text(),
	});
end

-- Arms a service of rooms, with the functions of mod_cartulary_host: watch(event, handler, priority) and wrap(event, wrapper).
function rooms.arm(watch, wrap)
	for _, kind in ipairs { "admin", "owner" } do wrap("iq-set/bare/http://jabber.org/protocol/muc#"..kind..":query", rooms.command); end
	watch("muc-room-created", function (event)
		notices.tell("room-created", { room = event.room.jid, jid = event.creator and event.creator.bare_jid });
	end);
	watch("muc-pre-room-destroy", function (event)
		if event.allowed == false or command() then return; end
		notices.tell("room-closing", { room = event.room.jid, reason = event.reason });
	end, LAST);
	watch("muc-room-destroyed", function (event)
		notices.tell("room-destroyed", { room = event.room.jid, reason = event.reason, jid = who(command()) });
	end);
	watch("muc-config-submitted", function (event)
		notices.tell("room-configured", { room = event.room.jid, jid = who(event.stanza), stanza = text(event.stanza) });
	end, LAST);
	watch("muc-occupant-joined", function (event) occupancy("occupant-joined", event, event.nick); end);
	watch("muc-occupant-left", left, 1000); -- before an empty room is destroyed
	watch("muc-occupant-pre-change", changes, LAST);
	watch("muc-broadcast-presence", presence_told);
	watch("muc-broadcast-message", broadcast, LAST);
	watch("muc-set-affiliation", function (event)
		if event.affiliation == event.previous_affiliation then return; end
		notices.tell("affiliation-changed", {
			room = event.room.jid, jid = event.jid, value = event.affiliation, reason = event.reason, stanza = text(command()),
		});
	end);
	watch("muc-invite", function (event)
		local said = event.incoming or event.stanza;
		notices.tell("invited", {
			room = event.room.jid, jid = event.stanza.attr.to and jid_bare(event.stanza.attr.to),
			occupant = said.attr.from and event.room:get_occupant_jid(said.attr.from), stanza = text(said),
		});
	end, LAST);
end

return rooms;
