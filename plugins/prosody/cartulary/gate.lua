-- The gate: holds a message once, where it enters the server, until the sidecar has decided.
--
-- Invariants: no message passes without a verdict, except as the settings say for unanswered ones; if a body
-- of ours throws, the message is refused and a notice told; one session's or sender's messages stay in order, since the
-- coroutine that handles them waits. What was asked and decided alone is told as an outcome. All handlers are wrappers of events: they run before any other module's
-- handler and know when the rest is done.
-- What it does not do: decide. The sidecar does.

local wire = require "cartulary.wire";
local link = require "cartulary.link";
local scope = require "cartulary.scope";
local ahead = require "cartulary.ahead";
local describe = require "cartulary.event";
local outcome = require "cartulary.outcome";
local recipients = require "cartulary.recipients";
local counts = require "cartulary.counts";
local ids = require "cartulary.ids";
local intake = require "cartulary.intake";
local later = require "cartulary.later";
local queues = require "cartulary.queues";
local streams = require "cartulary.streams";
local waiting = require "cartulary.waiting";
local fanout = require "cartulary.fanout";
local stanzas = require "cartulary.stanzas";
local notices = require "cartulary.notices";
local async = require "util.async";
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

-- The sidecar may have recorded a verdict that never arrived: what was done instead is told, if it was asked at all.
local function refused_alone(held, reason)
	counts.settled(held, "refused_alone");
	if not held.deliveries then
		if held.answer or not held.asked then return; end
		held.deliveries = {};
	end
	outcome.add(held, outcome.BOUNCED, held.bare, nil, nil, reason);
	outcome.finish(held);
end

local function broken(event, held, where, problem)
	notices.hook_failed(where, problem);
	local ok, err = pcall(refuse, event, "wait", "internal-server-error", BROKEN);
	if not ok then log("error", "Could not even refuse: %s", err); end
	ok, err = pcall(refused_alone, held, "internal-server-error");
	if not ok then log("error", "Could not tell: %s", err); end
	return false;
end

-- No verdict can be had. Returns whether the message goes on.
local function without_verdict(event, held)
	if held.malformed then return broken(event, held, "verdict", held.failure); end
	local settings = link.settings;
	log("debug", "No verdict: %s", held.failure);
	if settings and settings.deliver_unanswered then
		link.count_delivered();
		counts.settled(held, "delivered_alone");
		if held.asked then held.deliveries = {}; end
		return true;
	end
	link.count_refused();
	refuse(event, "wait", "service-unavailable", NOT_RECORDED);
	refused_alone(held, "unanswered");
	return false;
end

local function with_verdict(event, held, verdict)
	counts.settled(held, counts.class(verdict));
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
	held.resource = verdict.resource;
	if verdict.named_only and held.target == recipients.ROOM then
		held.only = {};
		for _, recipient in ipairs(held.named) do held.only[recipient.bare] = true; end
	end
	return true;
end

-- Addresses a message to an account to the session that the verdict names, if it is available. Returns whether it did.
local function direct(held, stanza)
	if not held.resource or held.target ~= recipients.USER or held.kind == "groupchat" or held.kind == "error" then return false; end
	local full = held.bare.."/"..held.resource;
	local session = prosody.full_sessions[full];
	if (stanza.attr.to or held.bare) ~= held.bare or not session or not session.presence then return false; end
	stanza.attr.to = full;
	return true;
end

-- Asks about a message. Returns whether it was asked; `held` tells the rest when it is settled.
local function pose(held, stanza, origin, ingress, host)
	local attr = stanza.attr;
	held.stanza, held.host = stanza, host;
	held.id, held.kind, held.from, held.to = attr.id, attr.type, attr.from, attr.to;
	held.done, held.event_id = waiting.settle, ids.new();
	local body;
	body, held.target, held.room, held.bare, held.named = describe.describe(held.event_id, ingress, host, origin, stanza, counts.read_at(held, stanza));
	local asked, why = link.ask(held, body);
	if not asked then held.settled, held.failure = true, why; end
	return asked;
end

local function hold(event, held, ingress, host)
	counts.asking(held, event.stanza);
	if not held.stanza then pose(held, event.stanza, event.origin, ingress, host); end
	if ingress == describe.CLIENT and not event.origin.destroyed then ahead.ask(event.origin, event.stanza, pose); end
	waiting.on(held, ingress == describe.CLIENT and event.origin);
	if held.answer then return with_verdict(event, held, held.answer); end
	return without_verdict(event, held);
end

-- Holds a message on the running coroutine. Returns whether it goes on, and what is known of it.
local function ask(event, ingress, host)
	local origin = event.origin;
	local held = ahead.take(origin, event.stanza) or {};
	streams.remember(origin);
	local ok, passes = pcall(hold, event, held, ingress, host);
	if not ok then passes = broken(event, held, "ingress", passes); end
	if passes and origin.destroyed then event.origin = streams.stand_in(origin); end
	return passes, held;
end

-- More of a session's messages wait than the settings allow.
function intake.refuse(session, stanza)
	local held = { failure = "too many waiting" };
	counts.asking(held, stanza);
	link.count_refused();
	refuse({ origin = session, stanza = stanza }, "wait", "resource-constraint", NOT_RECORDED);
	refused_alone(held);
end

-- Lets the server handle a message that may pass, and tells the outcome.
local function release(held, f, a, b, c, d)
	local ok, result = scope.run(held, f, a, b, c, d);
	local told, problem = pcall(outcome.finish, held, not ok);
	if not told then notices.hook_failed("outcome", problem); end
	if not ok then error(result, 0); end -- another module's, to be seen where it would have been without us
	return result;
end

-- Tells a message that the server itself made.
local function tell(host, event)
	local ok, problem = pcall(function ()
		if link.ready and link.post((describe.describe(ids.new(), describe.INTERNAL, host, nil, event.stanza))) then return; end
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

local function deliver(held, handlers, name, event)
	local result = handlers(name, event);
	if result then return result; end
	direct(held, event.stanza);
	-- What the server would do next, done here so that its end is seen.
	prosody.core_post_stanza(event.origin, event.stanza);
	return true;
end

-- Wraps pre-message/*: from a client, on its own coroutine whatever the transport.
function gate.from_client(handlers, name, event)
	local passes, held = ask(event, describe.CLIENT, event.origin.host);
	if not passes then return true; end
	return release(held, deliver, held, handlers, name, event);
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

-- What nobody handles, the server answers with an error.
local function handled(held, handlers, name, event)
	if direct(held, event.stanza) then
		prosody.core_post_stanza(event.origin, event.stanza);
		return true;
	end
	local result = handlers(name, event);
	if not result and event.stanza.attr.type ~= "error" then
		outcome.add(held, outcome.BOUNCED, held.bare, nil, nil, "service-unavailable");
	end
	return result;
end

-- Holds what came from another server or a component. It comes in a queue of its sender (intake.lua), on a coroutine that may
-- wait; what another module puts in otherwise gets one here.
local function from_stream(handlers, name, event, ingress, host)
	if not async.ready() then
		queues.push(event.origin, event.stanza.attr.from or "", prosody.core_post_stanza, event.stanza);
		return true;
	end
	local passes, held = ask(event, ingress, host);
	if not passes then return true; end
	return release(held, handled, held, handlers, name, event);
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
		end
		return from_stream(handlers, name, event, ingress, ingress == describe.COMPONENT and event.origin.host or host);
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
				local component = hosts[host].modules.component;
				if component and component.connected == false then
					outcome.copy(held, outcome.BOUNCED, event.stanza.attr.to, nil, "the component is not connected");
				else
					outcome.copy(held, outcome.HANDED, event.stanza.attr.to, nil, "external component");
				end
			end
			return result;
		end, name, event);
	end
end

-- A copy of `held` was given to the stream to another server, or waits for it to be ready.
local function went_out(held, event)
	local stanza, host = event.stanza, event.to_host;
	local session = hosts[event.from_host].s2sout[host];
	if session and session.type == "s2sout_unauthed" then return later.to_remote(held, stanza, session, host); end
	outcome.copy(held, outcome.REMOTE, stanza.attr.to, nil, host);
	if session then later.handed(held, stanza, session); end
end

-- Wraps route/remote on `host`.
function gate.to_remote(host)
	return function (handlers, name, event)
		if event.stanza.name ~= "message" then return handlers(name, event); end
		local held = scope.current();
		if held then
			return within(held, host, function (...)
				local result = handlers(...);
				if result and fanout.is_copy(held, event.stanza) then went_out(held, event); end
				return result;
			end, name, event);
		end
		local ingress = outside(event.origin);
		if ingress == describe.COMPONENT then
			return from_stream(function (...)
				local result = handlers(...);
				local out = scope.current();
				if result and out then went_out(out, event); end
				return result;
			end, name, event, ingress, host);
		end
		internal(host, event);
		return handlers(name, event);
	end
end

-- Wraps message/offline/handle on `host`.
function gate.to_offline(host)
	return function (handlers, name, event)
		local held = scope.current();
		local result = later.store(held, handlers, name, event);
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
		local held = {};
		counts.asking(held, event.stanza);
		counts.settled(held, "refused_alone");
		link.count_refused();
		refuse(event, "wait", "service-unavailable", NOT_RECORDED);
	end
	return true;
end

return gate;
