-- The gate: holds a message once, where it enters the server, until the sidecar has decided.
--
-- Invariants: no message passes without a verdict, except as the settings say for unanswered ones; if a body
-- of ours throws, the message is refused and a notice told; one session's messages stay in order, since its
-- own coroutine waits. All handlers are wrappers of events: they run before any other module's
-- handler and know when the rest is done.
-- What it does not do: decide. The sidecar does.

local wire = require "cartulary.wire";
local link = require "cartulary.link";
local scope = require "cartulary.scope";
local ahead = require "cartulary.ahead";
local describe = require "cartulary.event";
local outcome = require "cartulary.outcome";
local fanout = require "cartulary.fanout";
local stanzas = require "cartulary.stanzas";
local notices = require "cartulary.notices";
local async = require "util.async";
local timer = require "util.timer";
local log = require "util.logger".init("cartulary");

local hosts = prosody.hosts;
local settled = fanout.settled;

local gate = {};

local NOT_RECORDED = "This message was not delivered: it cannot be recorded at the moment.";
local BROKEN = "This message was not delivered: an error occurred while it was being recorded.";

-- Answers with an error, unless it would answer an error.
local function refuse(event, error_type, condition, reason)
	local origin, attr = event.origin, event.stanza.attr;
	if attr.type == "error" or origin.destroyed or not origin.send then return; end
	local reply = stanzas.error(attr.to, attr.from, attr.id, error_type, condition, reason);
	settled[reply] = true; -- to a remote server it passes route/remote
	origin.send(reply);
end

local function broken(event, where, problem)
	notices.hook_failed(where, problem);
	local ok, err = pcall(refuse, event, "wait", "internal-server-error", BROKEN);
	if not ok then log("error", "Could not even refuse: %s", err); end
	return false;
end

-- No verdict can be had. Returns whether the message goes on.
local function without_verdict(event, held)
	if held.malformed then return broken(event, "verdict", held.failure); end
	local settings = link.settings;
	log("debug", "No verdict: %s", held.failure);
	if settings and settings.deliver_unanswered then
		link.count_delivered();
		return true;
	end
	link.count_refused();
	refuse(event, "wait", "service-unavailable", NOT_RECORDED);
	return false;
end

local function with_verdict(event, held, verdict)
	if verdict.outcome_wanted and verdict.event_id then
		held.event_id, held.deliveries = verdict.event_id, {};
	end
	if verdict.action == wire.DROP then
		outcome.add(held, outcome.DROPPED, held.bare, nil, nil, "verdict");
		outcome.finish(held);
		return false;
	elseif verdict.action == wire.BOUNCE then
		refuse(event, verdict.error_type, verdict.condition, verdict.text);
		outcome.add(held, outcome.BOUNCED, held.bare, nil, nil, "verdict");
		outcome.finish(held);
		return false;
	end
	if verdict.exceptions then
		for _, x in pairs(verdict.exceptions) do
			if x.action == wire.REPLACE then x.parsed = stanzas.parse(x.replacement); end
		end
		held.exceptions = verdict.exceptions;
	end
	if verdict.action == wire.REPLACE then
		stanzas.replace(event.stanza, stanzas.parse(verdict.replacement));
	end
	return true;
end

-- A question was settled: by an answer, or by a failure.
local function on_settled(held)
	held.settled = true;
	if held.wake then held.wake(); end
	if held.abandoned then held.abandoned(held); end
end

-- Asks about a message. Returns whether it was asked; `held` tells the rest when it is settled.
local function pose(held, stanza, origin, ingress, host)
	local attr = stanza.attr;
	held.stanza, held.host = stanza, host;
	held.id, held.kind, held.from, held.to = attr.id, attr.type, attr.from, attr.to;
	held.done = on_settled;
	local body;
	body, held.target, held.room, held.bare = describe.describe(ingress, host, origin, stanza);
	local asked, why = link.ask(held, body);
	if not asked then held.settled, held.failure = true, why; end
	return asked;
end

-- Prosody stops reading from a session that waits. When it reads on, 13.0 does not look for what LuaSocket had
-- already taken from the kernel: nobody would, until the client sends more. So we do, for sessions that waited.
local function read_on(conn)
	if conn._wantread and conn.conn and conn.conn:dirty() then conn:onreadable(); end
end

local reading_on = setmetatable({}, { __mode = "k" }); -- runners that have it

local function have_rest_read(runner)
	if not runner or not runner.watchers or reading_on[runner] then return; end
	reading_on[runner] = true;
	local theirs = runner.watchers;
	local ours = { ready = function (self, ...)
		if theirs.ready then theirs.ready(self, ...); end
		local conn = self.data and self.data.conn;
		if conn and conn.onreadable and conn.conn and conn.conn:dirty() then
			timer.add_task(0, function () read_on(conn); end);
		end
	end };
	runner.watchers = setmetatable(ours, { __index = theirs });
end

local function hold(event, held, ingress, host)
	if not held.stanza then pose(held, event.stanza, event.origin, ingress, host); end
	if ingress == describe.CLIENT then ahead.ask(event.origin, event.stanza, pose); end
	if not held.settled then
		local wait, done = async.waiter();
		held.wake = done;
		have_rest_read(event.origin.thread);
		wait();
	end
	if held.answer then return with_verdict(event, held, held.answer); end
	return without_verdict(event, held);
end

-- Holds a message on the running coroutine. Returns whether it goes on, and what is known of it.
local function ask(event, ingress, host)
	local held = ahead.take(event.origin, event.stanza) or {};
	local ok, passes = pcall(hold, event, held, ingress, host);
	if not ok then passes = broken(event, "ingress", passes); end
	return passes, held;
end

-- The client went before its turn came for a message that had been asked about ahead.
local function abandon(held)
	local verdict = held.answer;
	if not verdict or not verdict.outcome_wanted or not verdict.event_id then return; end
	held.event_id, held.deliveries = verdict.event_id, {};
	outcome.add(held, outcome.DROPPED, held.bare, nil, nil, "the session ended first");
	outcome.finish(held);
end

function gate.session_ended(session)
	ahead.abandon(session, abandon);
end

-- Lets the server handle a message that may pass, and tells the outcome.
local function release(held, f, a, b, c)
	local ok, result = scope.run(held, f, a, b, c);
	local told, problem = pcall(outcome.finish, held, not ok);
	if not told then notices.hook_failed("outcome", problem); end
	if not ok then error(result, 0); end -- another module's, to be seen where it would have been without us
	return result;
end

-- Tells a message that the server itself made.
local function tell(host, event)
	local ok, problem = pcall(function ()
		if link.ready and link.tell(wire.EVENT, (describe.describe(describe.INTERNAL, host, nil, event.stanza))) then return; end
		link.count_delivered();
	end);
	if not ok then notices.hook_failed("internal message", problem); end
end

-- Messages the server makes that repeat what was recorded, or that are no messages but for their
-- wrapping: history sent to who joins, what stream management hands on (both carry a delay of ours), the
-- subject sent to who joins, and notifications of pubsub nodes.
local function repeats(stanza)
	local delay = stanza:get_child("delay", "urn:xmpp:delay");
	local by = delay and delay.attr.from;
	if by and hosts[by:match("([^@]+)$")] then return true; end
	if stanza.attr.type == "headline" then
		return stanza:get_child("event", "http://jabber.org/protocol/pubsub#event") ~= nil;
	end
	return stanza.attr.type == "groupchat" and #stanza.tags == 1 and stanza.tags[1].name == "subject";
end

local function internal(host, event)
	if settled[event.stanza] or repeats(event.stanza) then return; end
	tell(host, event);
end

-- The client went while its message waited. It was recorded and may pass, so it does; what handlers
-- ask of its session is answered by a stand-in, since Prosody empties ended sessions.
local function stand_in(origin, held, known)
	return setmetatable({
		type = "c2s", username = known.username, host = known.host, resource = known.resource,
		full_jid = held.from, destroyed = true, send = function () return false; end, log = origin.log or log,
	}, { __index = origin });
end

local function deliver(handlers, name, event)
	local result = handlers(name, event);
	if result then return result; end
	-- What the server would do next, done here so that its end is seen.
	prosody.core_post_stanza(event.origin, event.stanza);
	return true;
end

-- Wraps pre-message/*: from a client, on its own coroutine whatever the transport.
function gate.from_client(handlers, name, event)
	local origin = event.origin;
	local known = { username = origin.username, host = origin.host, resource = origin.resource };
	local passes, held = ask(event, describe.CLIENT, origin.host);
	if not passes then return true; end
	if origin.destroyed then event.origin = stand_in(origin, held, known); end
	return release(held, deliver, handlers, name, event);
end

-- Coroutines for streams that have none of their own (external components): one for each stream.
local runners = setmetatable({}, { __mode = "k" });

local function later(event, ingress, host)
	local origin = event.origin;
	local runner = runners[origin];
	if not runner then
		runner = async.runner(function (job)
			local passes, held = ask(job.event, job.ingress, job.host);
			if passes then release(held, prosody.core_post_stanza, job.event.origin, job.event.stanza); end
		end, { error = function (_, err) log("error", "While handling a message of a component: %s", err); end });
		runners[origin] = runner;
	end
	local settings = link.settings;
	if not settings or #runner.queue >= settings.max_waiting then
		without_verdict(event, { failure = "too many waiting" });
	else
		runner:run({ event = event, ingress = ingress, host = host });
	end
	return true;
end

-- The stream a message came in by, where it is not our own server.
local function outside(origin)
	if not origin or origin.dummy or hosts[origin.host] == origin then return nil; end
	if origin.type == "s2sin" or origin.type == "s2sout" then return describe.REMOTE; end
	if origin.type == "component" then return describe.COMPONENT; end
	return nil;
end

-- A message passes while another is handled.
local function within(held, host, handlers, name, event)
	local stanza = event.stanza;
	if settled[stanza] then return handlers(name, event); end
	if fanout.is_copy(held, stanza) then
		return fanout.pass(held, handlers, name, event);
	elseif stanza.attr.type == "error" then
		outcome.error(held, stanza);
		return handlers(name, event);
	end
	internal(host, event);
	local ok, result = scope.run(nil, handlers, name, event);
	if not ok then error(result, 0); end
	return result;
end

-- Wraps message/* on `host`: what comes from other servers and components is held, what the server
-- makes is told, what is part of a held message passes.
function gate.to_host(host)
	return function (handlers, name, event)
		local held = scope.current();
		if held then return within(held, host, handlers, name, event); end
		local ingress = outside(event.origin);
		if not ingress then
			internal(host, event);
			return handlers(name, event);
		elseif ingress == describe.REMOTE and async.ready() then
			local passes;
			passes, held = ask(event, ingress, host);
			if not passes then return true; end
			return release(held, handlers, name, event);
		end
		return later(event, ingress, ingress == describe.COMPONENT and event.origin.host or host);
	end
end

-- Wraps message/* on the host of an external component: what it takes is delivered.
function gate.to_component(host)
	local inner = gate.to_host(host);
	return function (handlers, name, event)
		return inner(function (...)
			local held = scope.current();
			local before = held and held.deliveries and #held.deliveries;
			local result = handlers(...);
			if before and result and #held.deliveries == before then
				outcome.copy(held, outcome.HANDED, event.stanza.attr.to, nil, "external component");
			end
			return result;
		end, name, event);
	end
end

-- Wraps route/remote on `host`.
function gate.to_remote(host)
	return function (handlers, name, event)
		if event.stanza.name ~= "message" then return handlers(name, event); end
		local held = scope.current();
		if held then
			return within(held, host, function (...)
				local result = handlers(...);
				if result and fanout.is_copy(held, event.stanza) then
					outcome.copy(held, outcome.REMOTE, event.stanza.attr.to, nil, event.to_host);
				end
				return result;
			end, name, event);
		end
		local ingress = outside(event.origin);
		if ingress == describe.COMPONENT then return later(event, ingress, host); end
		internal(host, event);
		return handlers(name, event);
	end
end

-- Wraps message/offline/handle on `host`.
function gate.to_offline(host)
	return function (handlers, name, event)
		local result = handlers(name, event);
		local held = scope.current();
		if held and result then outcome.stored(held, event.username.."@"..host); end
		return result;
	end
end

-- Hooks muc-broadcast-message: what a room says to everybody of itself is told once, not for each copy.
function gate.broadcast(host)
	return function (event)
		local held, stanza = scope.current(), event.stanza;
		if settled[stanza] or held and fanout.is_copy(held, stanza) or repeats(stanza) then return; end
		local to = stanza.attr.to;
		stanza.attr.to = event.room.jid;
		tell(host, event);
		stanza.attr.to = to;
		settled[stanza] = true;
	end
end

-- Hooked on a host that could not be armed: refuses every message.
function gate.shut(event)
	if event.stanza.name ~= "message" then return; end
	if event.origin and not settled[event.stanza] then
		link.count_refused();
		refuse(event, "wait", "service-unavailable", NOT_RECORDED);
	end
	return true;
end

return gate;
