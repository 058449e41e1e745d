-- Holds what is no message, where it enters the server and where the settings name its subject: presence, iqs, and the binding of
-- sessions.
--
-- Invariants: what is named does not go on without a verdict, except as the settings say of its subject; if a body of ours throws,
-- it is refused and a notice told. A session's stanzas stay in order, since the coroutine that handles them waits. A client that goes
-- is never kept: its goodbye goes on at once, and without a word that somebody might object to; what is answered changes nothing.
-- Stanzas are held where they leave their streams (intake.lua), not in events: what the server makes of one presence (a copy for each
-- subscriber, probes, the goodbye of a session that has ended) passes the same events as the presence itself, and never comes here.
-- What it does not do: count, or tell outcomes. Both are about messages.

local wire = require "cartulary.wire";
local link = require "cartulary.link";
local describe = require "cartulary.event";
local recipients = require "cartulary.recipients";
local subjects = require "cartulary.subjects";
local waiting = require "cartulary.waiting";
local queues = require "cartulary.queues";
local streams = require "cartulary.streams";
local stanzas = require "cartulary.stanzas";
local notices = require "cartulary.notices";
local ids = require "cartulary.ids";
local async = require "util.async";
local st = require "util.stanza";
local jid = require "util.jid";
local new_id = require "util.id".short;
local resourceprep = require "util.encodings".stringprep.resourceprep;
local config_get = require "core.configmanager".get;
local log = require "util.logger".init("cartulary");

local jid_bare, jid_prep, jid_host = jid.bare, jid.prep, jid.host;
local hosts = prosody.hosts;

local others = {};

local UNDECIDED = "This was not carried out: nobody can decide about it at the moment.";
local BROKEN = "This was not carried out: an error occurred while it was being decided about.";
local TOO_MANY = "This was not carried out: too much of this session waits.";

local held_names = { presence = true, iq = true };
local iq_types = { get = true, set = true, result = true, error = true };
local ingresses = { c2s = describe.CLIENT, s2sin = describe.REMOTE, s2sout = describe.REMOTE, component = describe.COMPONENT };

-- What the settings say of this subject, { deliver }; nil where it is not asked about.
local function named(subject)
	local settings = link.settings;
	local about = settings and settings.ask_about;
	return about and about[subject];
end

-- Whether such a stanza may have to be asked about at all.
function others.may_hold(stanza)
	local settings = link.settings;
	return settings ~= nil and settings.ask_about ~= nil and held_names[stanza.name] == true;
end

-- Whether the server's router ends this stanza itself, in the words of its own checks.
local function malformed(ingress, stanza)
	local attr, children = stanza.attr, #stanza.tags;
	if attr.to and not jid_prep(attr.to) then return true; end
	if ingress ~= describe.CLIENT then return not jid_prep(attr.from); end
	if attr.type == "error" and children == 0 then return true; end
	if stanza.name ~= "iq" then return false; end
	return not iq_types[attr.type] or not attr.id or (attr.type == "get" or attr.type == "set") and children ~= 1;
end

-- What is to be asked about a stanza that has just been read: { named, told, … } with the fields of event.other(); nil where nothing is.
-- Puts its addresses in the form in which the router would hand it on.
local function question_of(origin, stanza)
	local ingress, attr = ingresses[origin.type], stanza.attr;
	if not ingress or malformed(ingress, stanza) then return nil; end
	local own;
	if ingress == describe.CLIENT then
		own, attr.from = origin.username.."@"..origin.host, origin.full_jid;
		attr.to = attr.to and jid_prep(attr.to);
		if attr.to == own then attr.to = nil; end
	else
		attr.from, attr.to = jid_prep(attr.from), attr.to and jid_prep(attr.to);
		own = jid_bare(attr.from);
	end
	local target, bare, resource = recipients.place(attr.to, own);
	local subject = subjects.of(stanza, target);
	local unanswered = named(subject);
	if not unanswered then return nil; end
	local list, reached, room = subjects.recipients(subject, stanza, origin, target, bare, resource);
	local in_room = reached == recipients.ROOM or reached == recipients.OCCUPANT;
	return {
		named = unanswered, told = ingress == describe.CLIENT and subjects.is_goodbye(stanza),
		subject = subject, ingress = ingress, from = attr.from, recipients = list, target = reached,
		host = ingress == describe.REMOTE and jid_host(attr.to) or origin.host,
		room = in_room and bare or nil, no_room = in_room and not room,
		of_rooms = reached == recipients.SERVICE and recipients.is_of_rooms(bare),
	};
end

-- Answers with an error where one may be answered (RFC 6120, 8.2.3 and 8.3.1).
local function refuse(origin, stanza, error_type, condition, text)
	local attr = stanza.attr;
	local kind = attr.type;
	if kind == "error" or kind == "result" or kind == "unavailable" or origin.destroyed or not origin.send then return; end
	origin.send(stanzas.error(attr.to, attr.from, attr.id, error_type, condition, text, stanza.name));
end

-- Asks and waits. Returns the verdict, or nil, why there is none, and whether that is our fault or the sidecar's.
local function verdict_on(body, session)
	local question = { done = waiting.settle };
	local asked, why = link.ask(question, body);
	if not asked then return nil, why; end
	waiting.on(question, session);
	return question.answer, question.failure, question.malformed;
end

local function empty(stanza)
	for i = #stanza, 1, -1 do stanza[i] = nil; end
	for i = #stanza.tags, 1, -1 do stanza.tags[i] = nil; end
end

-- Holds a stanza on the running coroutine. Returns whether it goes on.
local function hold(origin, stanza, about)
	streams.remember(origin);
	if about.told then empty(stanza); end
	local body = describe.other(ids.new(), origin, stanza, about);
	if about.told then
		link.ask({ done = function () end }, body);
		return true;
	end
	local verdict, failure, bad = verdict_on(body, about.ingress == describe.CLIENT and origin);
	if bad then error(failure, 0); end
	if not verdict then
		log("debug", "No verdict: %s", failure);
		if not about.named.deliver then refuse(origin, stanza, "wait", "service-unavailable", UNDECIDED); end
		return about.named.deliver;
	elseif verdict.action == wire.BOUNCE then
		refuse(origin, stanza, verdict.error_type, verdict.condition, verdict.text);
	elseif verdict.action == wire.REPLACE then
		stanzas.replace(stanza, stanzas.parse(verdict.replacement, stanza.name));
	end
	return verdict.action == wire.DELIVER or verdict.action == wire.REPLACE;
end

local function broken(origin, stanza, problem)
	notices.hook_failed("ingress", problem);
	local ok, err = pcall(refuse, origin, stanza, "wait", "internal-server-error", BROKEN);
	if not ok then log("error", "Could not even refuse: %s", err); end
end

-- What a client whose session has ended had said before: a wish is carried out, but nobody is made present who is gone.
local function outlives(stanza)
	return stanza.name == "iq" or subjects.of(stanza, recipients.USER) == "subscription";
end

-- Hands a stanza that has just been read to handle(origin, stanza), if it may go on. May wait.
function others.process(origin, stanza, handle)
	if not others.may_hold(stanza) then return handle(origin, stanza); end
	local ok, about = pcall(question_of, origin, stanza);
	if not ok then return broken(origin, stanza, about); end
	if not about then return handle(origin, stanza); end
	if not about.told and not async.ready() then
		return queues.push(origin, stanza.attr.from, function (from, queued) return others.process(from, queued, handle); end, stanza);
	end
	local held, passes = pcall(hold, origin, stanza, about);
	if not held then return broken(origin, stanza, passes); end
	if not passes then return; end
	-- The goodbye that the server itself says for a session comes when that has ended: without it the account stays in the roster of
	-- others, and its sessions keep an order that counts the one that is gone.
	if origin.destroyed and not about.told then
		if about.ingress == describe.CLIENT and not outlives(stanza) then return; end
		origin = streams.stand_in(origin);
	end
	return handle(origin, stanza);
end

-- The same for a stanza of a client's session, which may have ended while others of it waited.
function others.from_client(origin, stanza, handle)
	if origin.destroyed and held_names[stanza.name] and outlives(stanza) then origin = streams.stand_in(origin); end
	return others.process(origin, stanza, handle);
end

-- More of a session's stanzas wait than the settings allow.
function others.refuse(session, stanza)
	refuse(session, stanza, "wait", "resource-constraint", TOO_MANY);
end

-- The resource that the server would give, as bind_resource() goes about it; nil where it would refuse.
local function resource_of(session, wanted)
	local resource = resourceprep(wanted or "", true);
	if not resource or resource == "" then return new_id(); end
	local user = hosts[session.host].sessions[session.username];
	local policy = config_get(session.host, "conflict_resolve");
	if not user or not user.sessions[resource] then return resource; end
	if policy == "kick_new" then return nil; end
	if policy == "random" then return new_id(); end
	if policy ~= "increment" then return resource; end
	local count = 1;
	while user.sessions[resource.."#"..count] do count = count + 1; end
	return resource.."#"..count;
end

local xmlns_bind = "urn:ietf:params:xml:ns:xmpp-bind";

local function bind_error(event, error_type, condition, text)
	local kind, known = stanzas.defined_error(error_type, condition);
	event.error = { type = kind, condition = known, text = text };
	return false;
end

-- Holds the binding of event.resource. Returns whether it goes on.
local function hold_bind(event, unanswered)
	local session = event.session;
	local resource = resource_of(session, event.resource);
	if not resource then return true; end
	event.resource = resource;
	local from = session.username.."@"..session.host.."/"..resource;
	local stanza = st.stanza("iq", { type = "set", from = from }):tag("bind", { xmlns = xmlns_bind }):text_tag("resource", resource):reset();
	local about = {
		subject = "bind", ingress = describe.CLIENT, host = session.host, from = from, target = recipients.USER, recipients = {},
	};
	local verdict, failure, bad;
	if async.ready() then
		verdict, failure, bad = verdict_on(describe.other(ids.new(), session, stanza, about), session);
	else
		failure = "it was to be bound where nothing can wait";
	end
	if bad then error(failure, 0); end
	if session.destroyed then return bind_error(event, "cancel", "not-allowed"); end
	if not verdict then
		log("debug", "No verdict: %s", failure);
		return unanswered.deliver or bind_error(event, "wait", "service-unavailable", UNDECIDED);
	elseif verdict.action == wire.BOUNCE then
		return bind_error(event, verdict.error_type, verdict.condition, verdict.text);
	elseif verdict.action == wire.DROP then
		return bind_error(event, "cancel", "not-allowed");
	elseif verdict.action == wire.REPLACE then
		local bind = stanzas.parse(verdict.replacement, "iq"):get_child("bind", xmlns_bind);
		event.resource = bind and bind:get_child_text("resource") or resource;
	end
	return true;
end

-- Wraps pre-resource-bind: fired in the session's coroutine, whatever the transport.
function others.bind(handlers, name, event)
	local result = handlers(name, event);
	local unanswered = named("bind");
	if result == false or not unanswered then return result; end
	local ok, passes = pcall(hold_bind, event, unanswered);
	if not ok then
		notices.hook_failed(name, passes);
		passes = bind_error(event, "wait", "internal-server-error", BROKEN);
	end
	if not passes then return false; end
	return result;
end

return others;
