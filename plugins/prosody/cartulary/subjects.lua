-- What a presence or an iq is about, and whom it concerns: look-ups in the server's tables (docs/event-link.md, event). Changes nothing.

local recipients = require "cartulary.recipients";

local subjects = {};

local bare_sessions, full_sessions = prosody.bare_sessions, prosody.full_sessions;

local subscription_types = { subscribe = true, subscribed = true, unsubscribe = true, unsubscribed = true };

-- The subject of a presence or an iq to a target of recipients.place().
function subjects.of(stanza, target)
	local in_room = target == recipients.ROOM or target == recipients.OCCUPANT;
	if stanza.name == "presence" then
		if subscription_types[stanza.attr.type] then return "subscription"; end
		return in_room and "room-presence" or "presence";
	end
	if in_room then return "room-iq"; end
	if target == recipients.SERVICE or not stanza.attr.to then return "service-iq"; end
	return "iq";
end

-- Whether this is a client's word that it goes, or is away: nothing may keep it, since its stream may be about to end.
function subjects.is_goodbye(stanza)
	return stanza.name == "presence" and stanza.attr.type == "unavailable" and not stanza.attr.to;
end

local function available(bare)
	local found, user = { bare = bare }, bare_sessions[bare];
	for resource, session in pairs(user and user.sessions or {}) do
		if session.presence then found[#found + 1] = resource; end
	end
	table.sort(found);
	return found;
end

-- As mod_presence reads it.
local function priority_of(presence)
	local text = presence:get_child_text("priority");
	local number = text and text:find("^[+-]?[0-9]+$") and tonumber(text) or 0;
	return math.max(-128, math.min(127, number));
end

-- The account's available sessions, of highest priority first, as they are when `session` has sent this presence.
local function own_sessions(bare, session, presence)
	local found, priorities, own = available(bare), {}, session.resource;
	for i = #found, 1, -1 do
		priorities[found[i]] = bare_sessions[bare].sessions[found[i]].priority or 0;
		if found[i] == own then table.remove(found, i); end
	end
	if not presence.attr.type then
		found[#found + 1] = own;
		priorities[own] = priority_of(presence);
	end
	table.sort(found, function (a, b)
		if priorities[a] ~= priorities[b] then return priorities[a] > priorities[b]; end
		return a < b;
	end);
	return found;
end

local function broadcast(bare, session, presence)
	local list, following = { own_sessions(bare, session, presence) }, {};
	for jid, item in pairs(session.roster or {}) do
		if jid and (item.subscription == "from" or item.subscription == "both") and bare_sessions[jid] then following[#following + 1] = jid; end
	end
	table.sort(following);
	for _, jid in ipairs(following) do
		local subscriber = available(jid);
		if #subscriber > 0 then list[#list + 1] = subscriber; end
	end
	return list;
end

-- Who is concerned, as recipients (recipients.lua), the target and the room's object, for what recipients.place() and subjects.of()
-- said of it. Presence always goes to everybody in a room, whatever nickname it is addressed to; a probe does not.
function subjects.recipients(subject, stanza, session, target, bare, resource)
	if subject == "service-iq" then return {}, target; end
	local to, kind = stanza.attr.to, stanza.attr.type;
	if target == recipients.ROOM or target == recipients.OCCUPANT then
		local room = recipients.room(bare);
		if subject == "subscription" then return { { bare = bare } }, target, room; end
		if subject == "room-presence" and kind ~= "probe" then target = recipients.ROOM; end
		if not room then return {}, target; end
		return recipients.in_room(room, target == recipients.OCCUPANT and to), target, room;
	end
	if not to then
		return subject == "presence" and broadcast(bare, session, stanza) or { { bare = bare } }, target;
	elseif target ~= recipients.USER or kind == "probe" then
		return { { bare = bare } }, target;
	elseif resource and subject ~= "subscription" then
		return { { bare = bare, full_sessions[to] and resource } }, target;
	elseif subject == "iq" then
		return { { bare = bare } }, target; -- the server answers for the account
	end
	return { available(bare) }, target;
end

return subjects;
