-- What becomes of messages after their handling: those that wait for a remote server's stream, those a client with stream management
-- never acknowledged, those stored for somebody away. Told with the event id, whenever it happens.
--
-- A stored message carries its event id as its first child, in a namespace of ours: so it survives a restart, and goes with the message
-- wherever the store keeps it. The filter of every client's session takes it off when the store is emptied, and only then: what a
-- user says in that namespace is a user's word. Every message gets the child, so that the first is never a user's.

local scope = require "cartulary.scope";
local outcome = require "cartulary.outcome";
local recipients = require "cartulary.recipients";
local ids = require "cartulary.ids";
local notices = require "cartulary.notices";
local st = require "util.stanza";
local jid = require "util.jid";

local jid_bare, jid_host = jid.bare, jid.host;
local weak = { __mode = "k" };

local later = {};

local function guarded(where, f, ...)
	local ok, problem = pcall(f, ...);
	if not ok then notices.hook_failed(where, problem); end
end

-- To, from and id of a message, together. An error about it has them the other way round.
local function key_of(to, from, id)
	return (to or "").."\n"..(from or "").."\n"..(id or "");
end

-- Given to sessions with stream management, which may report it undelivered: event ids by key. Two generations, so that
-- what was acknowledged long ago goes without being looked at; Prosody keeps 500 unacknowledged.
local GENERATION = 500;
local handed = setmetatable({}, weak);

local function remember(session, key, id)
	local mine = handed[session];
	if not mine or mine.n >= GENERATION then
		mine = { n = 0, new = {}, old = mine and mine.new or {} };
		handed[session] = mine;
	end
	mine.n = mine.n + 1;
	mine.new[key] = id;
end

-- A message was handed to `session`, a client's or a remote server's.
function later.handed(held, stanza, session)
	if not session.smacks or not held.event_id then return; end
	remember(session, key_of(stanza.attr.to, stanza.attr.from, stanza.attr.id), held.event_id);
end

local function take(session, stanza)
	local mine = handed[session];
	if not mine then return nil; end
	local key = key_of(stanza.attr.to, stanza.attr.from, stanza.attr.id);
	local id = mine.new[key] or mine.old[key];
	mine.new[key], mine.old[key] = nil, nil;
	return id;
end

-- Wraps delivery/failure: a session ended without having acknowledged this. Other modules may store it; else the sender
-- is sent an error.
function later.failed(handlers, name, event)
	local session, stanza = event.session, event.stanza;
	local id = stanza.name == "message" and take(session, stanza);
	if not id then return handlers(name, event); end
	local bare = jid_bare(session.full_jid or stanza.attr.to);
	local held = {
		event_id = id, deliveries = {}, bare = bare, target = recipients.USER, stanza = stanza,
		kind = stanza.attr.type, id = stanza.attr.id, from = stanza.attr.from, host = session.host,
	};
	local ok, result = scope.run(held, handlers, name, event);
	guarded("delivery/failure", function ()
		if not ok or not result then
			outcome.add(held, outcome.BOUNCED, bare, nil, session.resource, "recipient-unavailable");
		elseif #held.deliveries == 0 then
			outcome.add(held, outcome.UNKNOWN, bare, nil, session.resource, "not acknowledged");
		end
		outcome.finish(held);
	end);
	if not ok then error(result, 0); end
	return result;
end

-- Waiting for a stream to a remote server, by session: { first, last, entries }.
local waiting = setmetatable({}, weak);

-- A copy waits for the stream `session` to `host` to be ready.
function later.to_remote(held, stanza, session, host)
	if not held.deliveries then return; end
	local list = waiting[session];
	if not list then
		list = { first = 1, last = 0, host = host };
		waiting[session] = list;
	end
	list.last = list.last + 1;
	list[list.last] = {
		key = key_of(stanza.attr.to, stanza.attr.from, stanza.attr.id), fate = outcome.open(held),
		bare = jid_bare(stanza.attr.to), occupant = held.room and held.room:get_occupant_jid(stanza.attr.to),
	};
end

local function tell(entry, result, reason)
	outcome.tell_open(entry.fate, { bare = entry.bare, occupant = entry.occupant, result = result, reason = reason });
end

-- The stream is ready, and what waited is sent.
function later.established(session)
	local list = waiting[session];
	if not list then return; end
	waiting[session] = nil;
	for i = list.first, list.last do
		if list[i] then
			tell(list[i], outcome.REMOTE, list.host);
			if session.smacks then remember(session, list[i].key, list[i].fate.id); end
		end
	end
end

-- The stream ended before it was ready; what was not bounced is gone.
function later.ended(session)
	local list = waiting[session];
	if not list then return; end
	waiting[session] = nil;
	for i = list.first, list.last do
		if list[i] then tell(list[i], outcome.DROPPED, "no stream to "..list.host); end
	end
end

local function bounced(reply)
	local key, host = key_of(reply.attr.from, reply.attr.to, reply.attr.id), jid_host(reply.attr.from);
	for _, list in pairs(waiting) do
		if list.host == host then
			for i = list.first, list.last do
				local entry = list[i];
				if entry and entry.key == key then
					list[i] = nil;
					if i == list.first then list.first = i + 1; end
					local _, condition = reply:get_error();
					return tell(entry, outcome.BOUNCED, condition);
				end
			end
		end
	end
end

-- The server answers a message that waited for a stream with this error.
function later.bounced(reply)
	if reply.name == "message" then guarded("s2s bounce", bounced, reply); end
end

local xmlns = "urn:cartulary:event";

-- Calls handlers(name, event), which may store the message, with its event id in it, if `held` has one to tell of.
function later.store(held, handlers, name, event)
	local stanza = event.stanza;
	local mark = st.stanza("event", { xmlns = xmlns }):text(held and held.deliveries and ids.text(held.event_id) or "");
	table.insert(stanza, 1, mark);
	table.insert(stanza.tags, 1, mark);
	local ok, result = pcall(handlers, name, event);
	if stanza[1] == mark then table.remove(stanza, 1); end
	if stanza.tags[1] == mark then table.remove(stanza.tags, 1); end
	if not ok then error(result, 0); end
	return result;
end

local emptying = setmetatable({}, weak); -- coroutines that deliver from the store

-- Wraps message/offline/broadcast: what was stored is sent to a session.
function later.empty_store(handlers, name, event)
	local thread = coroutine.running();
	emptying[thread] = true;
	local ok, result = pcall(handlers, name, event);
	emptying[thread] = nil;
	if not ok then error(result, 0); end
	return result;
end

-- Whether this message comes from the store now.
function later.is_stored(stanza)
	local first = stanza.tags[1];
	return first ~= nil and first.attr.xmlns == xmlns and emptying[coroutine.running()] == true;
end

-- Takes the id off a stored message and tells that `session` gets it.
function later.unstore(stanza, session)
	local mark = table.remove(stanza.tags, 1);
	for i = 1, #stanza do
		if stanza[i] == mark then table.remove(stanza, i); break; end
	end
	guarded("offline delivery", function ()
		local id = ids.parse(mark:get_text());
		if not id or not session.full_jid then return; end
		outcome.tell(id, { { bare = jid_bare(session.full_jid), session.resource, result = outcome.FROM_STORE } }, true);
		later.handed({ event_id = id }, stanza, session);
	end);
	return stanza;
end


return later;
