-- Who would get a message now: a look-up in the server's tables. Changes nothing.
--
-- A recipient is { bare, occupant, resource, resource, … }, keyed `bare` and `occupant`, resources in the list part.

local jid_split = require "util.jid".split;
local jid_bare = require "util.jid".bare;

local recipients = {};

-- Targets of an event.
recipients.USER, recipients.ROOM, recipients.OCCUPANT = 1, 2, 3;
recipients.REMOTE, recipients.SERVICE, recipients.COMPONENT = 4, 5, 6;

local hosts, full_sessions, bare_sessions = prosody.hosts, prosody.full_sessions, prosody.bare_sessions;

-- As mod_message delivers: a full JID's session if it is there, else as to the bare JID.
local function sessions_of(bare, to, kind)
	local found = { bare = bare };
	if to ~= bare then
		local session = full_sessions[to];
		if session then
			found[1] = session.resource;
			return found;
		end
	end
	local user = bare_sessions[bare];
	if not user or kind == "groupchat" or kind == "error" then return found; end
	if kind == "headline" then
		if to ~= bare then return found; end
		for resource, session in pairs(user.sessions) do
			if session.presence and session.priority >= 0 then found[#found + 1] = resource; end
		end
	elseif user.top_resources then
		for i, session in ipairs(user.top_resources) do found[i] = session.resource; end
	end
	return found;
end

local function occupant_of(occupant)
	local found = { bare = occupant.bare_jid, occupant = occupant.nick };
	for jid in occupant:each_session() do
		local _, _, resource = jid_split(jid);
		found[#found + 1] = resource;
	end
	return found;
end

-- A mediated invitation goes to whoever is invited; other messages to a room that are not for
-- everybody go to the room itself.
local function invited(stanza)
	local x = stanza:get_child("x", "http://jabber.org/protocol/muc#user");
	local invite = x and (x:get_child("invite") or x:get_child("decline"));
	local bare = invite and invite.attr.to and jid_bare(invite.attr.to);
	return bare and { { bare = bare } } or {};
end

-- Who has this occupant JID, or everybody in the room where none is given.
function recipients.in_room(room, nick)
	if nick then
		local occupant = room:get_occupant_by_nick(nick);
		return { occupant and occupant_of(occupant) };
	end
	local all = {};
	for _, occupant in room:each_occupant() do all[#all + 1] = occupant_of(occupant); end
	return all;
end

-- The room with this JID, or nil.
function recipients.room(jid)
	local _, host = jid_split(jid);
	local muc = hosts[host] and hosts[host].modules.muc;
	return muc and muc.get_room_from_jid(jid) or nil;
end

-- Where a stanza to `to` goes: target, the addressee's bare JID, its resource. `own` is the sender's bare JID, where a stanza without
-- addressee goes.
function recipients.place(to, own)
	if not to then return recipients.USER, own; end
	local node, host, resource = jid_split(to);
	local bare = node and node.."@"..host or host;
	local there = hosts[host];
	local target;
	if not there then target = recipients.REMOTE;
	elseif there.type == "local" and node then target = recipients.USER;
	elseif there.modules.muc and node then target = resource and recipients.OCCUPANT or recipients.ROOM;
	elseif there.modules.component then target = recipients.COMPONENT;
	else target = recipients.SERVICE;
	end
	return target, bare, resource;
end

-- Whether this is a service of rooms.
function recipients.is_of_rooms(jid)
	local _, host = jid_split(jid);
	return hosts[host] ~= nil and hosts[host].modules.muc ~= nil;
end

-- Of a message: target, recipients, for targets 2 and 3 the room object, the addressee's bare JID, and for a room its JID.
function recipients.of(stanza, own)
	local to, kind = stanza.attr.to, stanza.attr.type;
	local target, bare = recipients.place(to, own);
	if target == recipients.USER then
		return target, { sessions_of(bare, to or bare, kind) }, nil, bare;
	elseif target == recipients.ROOM or target == recipients.OCCUPANT then
		local room = recipients.room(bare);
		local list = {};
		if room and target == recipients.OCCUPANT then list = recipients.in_room(room, to);
		elseif room and kind == "groupchat" then list = recipients.in_room(room);
		elseif room then list = invited(stanza);
		end
		return target, list, room, bare, bare;
	end
	return target, { { bare = bare } }, nil, bare;
end

return recipients;
