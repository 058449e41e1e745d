-- Where stanzas leave their streams: counts what was said, gives senders on shared streams their queues, and sees what the
-- server ends before anybody is asked.
--
-- It stands before the server's own core_process_stanza, which every transport takes when it is loaded, and that is after this. The
-- gate does not rely on it: a message that comes another way is held all the same, and missed in the counts.

local counts = require "cartulary.counts";
local later = require "cartulary.later";
local queues = require "cartulary.queues";
local streams = require "cartulary.streams";
local notices = require "cartulary.notices";
local others = require "cartulary.others";
local link = require "cartulary.link";
local jid = require "util.jid";

local jid_bare, jid_prep, jid_host = jid.bare, jid.prep, jid.host;
local hosts = prosody.hosts;
local server_process = prosody.core_process_stanza;

local intake = {};

local speaks = { c2s = true, s2sin = true, s2sout = true, component = true };

-- Whether the server's router ends this message itself, in the words of its own checks. Of a stream that is shared it must
-- be asked before, since the stream may be closed for it.
local function may_not_say(origin, stanza)
	local kind, attr = origin.type, stanza.attr;
	if not speaks[kind] then return true; end
	local from_host, to_host = jid_host(jid_prep(attr.from)), jid_host(jid_prep(attr.to));
	if kind == "component" then return not hosts[from_host or ""] and not hosts[to_host or ""]; end
	if kind == "c2s" then return false; end
	local authorised = from_host and origin.hosts and origin.hosts[from_host];
	return not authorised or not authorised.authed or not hosts[to_host or ""];
end

local function malformed(kind, attr, stanza)
	if attr.to and not jid_prep(attr.to) then return true; end
	if kind == "c2s" then return attr.type == "error" and #stanza.tags == 0; end
	return attr.from ~= nil and not jid_prep(attr.from);
end

local function before(origin, stanza)
	streams.remember(origin);
	return origin.type ~= "c2s" and may_not_say(origin, stanza);
end

local function nobody_was_asked(stanza, kind, ends)
	if ends or malformed(kind, stanza.attr, stanza) then counts.ended(stanza); else counts.went_by(stanza); end
end

-- Counts are told wrong rather than that a message is lost: the gate asks about it whatever happens here.
local function guarded(f, ...)
	local ok, result = pcall(f, ...);
	if ok then return result; end
	notices.hook_failed("intake", result);
	return nil;
end

-- Handles a message of a stream, on a coroutine that may wait.
local function process(origin, stanza)
	local kind = origin.type;
	local ends = guarded(before, origin, stanza);
	local ok, problem = xpcall(server_process, debug.traceback, origin, stanza);
	if counts.is_open(stanza) then guarded(nobody_was_asked, stanza, kind, ends or not ok); end
	if not ok then error(problem, 0); end -- not ours, to be seen where it would have been without us
end

-- Handles another stanza of a stream that is shared, on a coroutine that may wait.
local function process_other(origin, stanza)
	if may_not_say(origin, stanza) then return server_process(origin, stanza); end
	return others.process(origin, stanza, server_process);
end

-- A stanza of a stream that many senders share.
local function from_shared(origin, stanza)
	local said = stanza.name == "message";
	local held = said or others.may_hold(stanza);
	-- Component streams have no filters.
	if said and origin.type == "component" and not counts.is_open(stanza) then counts.said(stanza); end
	local key = jid_bare(jid_prep(stanza.attr.from)) or "";
	if not held and not queues.has(origin, key) then return false; end
	if held then streams.remember(origin); end
	queues.push(origin, key, said and process or process_other, stanza);
	return true;
end

local shared = { s2sin = true, s2sout = true, component = true };

local function take(origin, stanza)
	if not stanza.attr.xmlns then
		if origin.dummy then
			later.bounced(stanza);
		elseif shared[origin.type] then
			local ok, queued = pcall(from_shared, origin, stanza);
			if ok and queued then return; end
			if not ok then
				notices.hook_failed("intake", queued);
				-- It was not handled: nobody gets it.
				if stanza.name == "message" then
					link.count_refused();
					counts.ended(stanza);
					return;
				elseif others.may_hold(stanza) then
					return;
				end
			end
		elseif stanza.name == "message" then
			-- Said before the session ended, and as good as any other.
			return process(origin.destroyed and streams.stand_in(origin) or origin, stanza);
		else
			return others.from_client(origin, stanza, server_process);
		end
	end
	return server_process(origin, stanza);
end
prosody.core_process_stanza = take; -- luacheck: ignore 122

-- What stands in a session's queue when the session ends comes here too, but with BOSH it would ask the session for the way, and an
-- ended session has lost it.
pcall(function ()
	local ended = {};
	require "core.sessionmanager".retire_session(ended);
	getmetatable(ended).dispatch_stanza = function (session, stanza) return take(session, stanza); end;
end);

-- Filter "stanzas/in" of every session, after all others: what they drop was not said.
intake.FILTER_PRIORITY = -1000000;
function intake.filter(stanza, session)
	if stanza.attr.xmlns then return stanza; end
	local said = stanza.name == "message";
	if said then guarded(counts.said, stanza); elseif not others.may_hold(stanza) then return stanza; end
	-- A transport that cannot stop reading (BOSH) fills the session's queue while its first stanza waits.
	local queue = session.thread and session.thread.queue;
	if queue and #queue > 0 and link.settings and #queue >= link.settings.max_waiting then
		return guarded(said and intake.refuse or others.refuse, session, stanza); -- nil
	end
	return stanza;
end

-- Refuses a message before it is queued; nil. Given by the gate.
intake.refuse = nil;

-- Wraps "pre-stanza" of a host with users (13.0): whoever answers it ends the stanza.
function intake.before_clients(handlers, name, event)
	local result = handlers(name, event);
	if result ~= nil then counts.ended(event.stanza); end
	return result;
end

return intake;
