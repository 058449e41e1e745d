-- What happens to the copies of a held message while the server handles it: exceptions of the verdict
-- are applied by look-up, deliveries are noted. Nothing here waits.
--
-- Copies pass at three places: message/* (a room's copy for a user, or the message itself), route/remote, and
-- the outgoing filter of a client's session, which also sees carbons. An exception that cannot be
-- carried out withholds the copy.

local wire = require "cartulary.wire";
local scope = require "cartulary.scope";
local outcome = require "cartulary.outcome";
local later = require "cartulary.later";
local stanzas = require "cartulary.stanzas";
local notices = require "cartulary.notices";
local st = require "util.stanza";
local jid = require "util.jid";

local jid_bare, jid_resource = jid.bare, jid.resource;

local fanout = {};

-- Messages that were told or answered already and are no event, wherever they pass.
fanout.settled = setmetatable({}, { __mode = "k" });

local xmlns_carbons, xmlns_forward = "urn:xmpp:carbons:2", "urn:xmpp:forward:0";

-- Whether `stanza` is the held message or a copy of it. A room sends the same object to everybody; private
-- messages and invitations are clones, which keep the id; a change of subject is made anew. Anything
-- else that passes meanwhile is a message of its own (a bot in a module, say).
function fanout.is_copy(held, stanza)
	if stanza == held.stanza then return true; end
	if stanza.attr.type == "error" and held.kind ~= "error" then return false; end
	if held.id then
		if stanza.attr.id == held.id then return true; end
	elseif not stanza.attr.id then
		-- Without an id the text has to serve: what a module says in reaction has another.
		return stanza:get_child_text("body") == held.stanza:get_child_text("body")
			and stanza:get_child_text("subject") == held.stanza:get_child_text("subject");
	end
	local subject = held.room and stanza:get_child_text("subject");
	return subject ~= nil and subject == held.stanza:get_child_text("subject");
end

-- The exception for a JID: its own, else its bare JID's.
local function exception_for(held, jid)
	return held.exceptions[jid] or held.exceptions[jid_bare(jid)];
end

-- The same for a copy on its way to an account: where single sessions of it have exceptions too, the
-- decision is left to their filters.
local function exception_on_the_way(held, jid)
	local x = exception_for(held, jid);
	if not x or jid ~= jid_bare(jid) then return x; end
	local prefix = jid.."/";
	for name in pairs(held.exceptions) do
		if name:sub(1, #prefix) == prefix then return nil; end
	end
	return x;
end

local function tell_sender(held, x, jid)
	if held.kind == "error" then return; end -- RFC 6120, 8.3.1
	local from = held.room and held.room:get_occupant_jid(jid) or jid;
	local reply = stanzas.error(from, held.from, held.id, x.error_type, x.condition, x.text);
	fanout.settled[reply] = true;
	local session = prosody.full_sessions[held.from];
	-- Outside of the message's handling: transports may send a clone, which nobody would know for our answer.
	scope.run(nil, function ()
		if session then session.send(reply); else prosody.core_route_stanza(prosody.hosts[held.host], reply); end
	end);
end

-- What rooms and archives put into copies: true of the copy, whatever its content.
local servers_own = {
	["urn:xmpp:occupant-id:0"] = true, ["urn:xmpp:sid:0"] = true, ["http://jabber.org/protocol/muc#user"] = true,
};

-- The copy with the content of `parsed`. A carbon's content is replaced inside its wrapping.
local function replaced(copy, parsed)
	local carbon = copy:get_child("received", xmlns_carbons) or copy:get_child("sent", xmlns_carbons);
	local forwarded = carbon and carbon:get_child("forwarded", xmlns_forward);
	local message = forwarded and forwarded.tags[1] or copy;
	local own = {};
	for _, child in ipairs(message.tags) do
		if servers_own[child.attr.xmlns] then own[#own + 1] = child; end
	end
	stanzas.replace(message, parsed);
	message:maptags(function (child)
		if servers_own[child.attr.xmlns] then return nil; end
		return child;
	end);
	for _, child in ipairs(own) do message:add_direct_child(child); end
	return copy;
end

-- What is to be sent to `jid` under exception `x`: a stanza, or nil where it is withheld.
local function under(x, held, jid, stanza)
	if x.action == wire.DELIVER then return stanza; end
	if x.action == wire.REPLACE then return replaced(st.clone(stanza), x.parsed); end
	if x.action == wire.BOUNCE then
		tell_sender(held, x, jid);
		outcome.copy(held, outcome.BOUNCED, jid, jid_resource(jid), x.condition);
	else
		outcome.copy(held, outcome.WITHHELD, jid, jid_resource(jid));
	end
	return nil;
end

local function safely(where, held, f, a, b, c)
	local ok, result = pcall(f, held, a, b, c);
	if ok then return result; end
	notices.hook_failed(where, result);
	return nil;
end

-- Whether somebody may get no copy because nobody decided about it: who joined the room while the message was held.
local function is_newcomer(held, jid)
	local bare = jid_bare(jid);
	return held.only ~= nil and bare ~= held.bare and not held.only[bare]; -- held.bare: on its way to the room
end

local function decide(held, jid, stanza)
	if is_newcomer(held, jid) then
		outcome.copy(held, outcome.WITHHELD, jid, jid_resource(jid), "joined while the message was held");
		return nil;
	end
	if not held.exceptions then return stanza; end
	local x = exception_on_the_way(held, jid);
	if not x then return stanza; end
	return under(x, held, jid, stanza);
end

-- A copy passes at message/* or route/remote. Returns what the event returns: true where it is withheld.
function fanout.pass(held, handlers, name, event)
	if not held.exceptions and not held.only then return handlers(name, event); end
	local jid = event.stanza.attr.to or jid_bare(held.from);
	local stanza = safely("fan-out", held, decide, jid, event.stanza);
	if not stanza then return true; end
	if stanza == event.stanza then return handlers(name, event); end
	local changed = {};
	for key, value in pairs(event) do changed[key] = value; end
	changed.stanza = stanza;
	return handlers(name, changed);
end

local function to_session(held, stanza, session)
	local jid, reason = session.full_jid, nil;
	local first = stanza.tags[1];
	local carbon = first and first.attr.xmlns == xmlns_carbons and first.name;
	if held.exceptions then
		local x = exception_for(held, jid);
		if x then
			stanza = under(x, held, jid, stanza);
			if not stanza then return nil; end
			if x.action == wire.REPLACE then reason = "replaced by an exception"; end
		end
	end
	if carbon and not reason then
		outcome.carbon(held, jid, session.resource, carbon == "sent");
	else
		outcome.copy(held, outcome.HANDED, jid, session.resource, reason);
	end
	if session.smacks and not carbon then later.handed(held, stanza, session); end
	return stanza;
end

-- Filter "stanzas/out" of clients' sessions, after those that may drop the stanza and before stream
-- management (-999), which keeps what was sent.
fanout.FILTER_PRIORITY = -998;
function fanout.filter(stanza, session)
	if stanza.name ~= "message" or not session.full_jid then return stanza; end
	if later.is_stored(stanza) then return later.unstore(stanza, session); end
	local held = scope.current();
	if not held then return stanza; end
	if not held.exceptions and not held.deliveries then return stanza; end
	if fanout.settled[stanza] then return stanza; end
	if stanza.attr.type == "error" and held.kind ~= "error" then
		safely("outcome", held, outcome.error, stanza);
		return stanza;
	end
	return safely("session filter", held, to_session, stanza, session);
end

-- Hooks muc-add-history: what was withheld from somebody, changed for one, or is not for newcomers is not kept by the room, since a room's
-- history and archive show to each who asks what was said to all.
function fanout.history(event)
	local held = scope.current();
	if held and held.exceptions and fanout.is_copy(held, event.stanza) then return true; end
end

return fanout;
