-- Laws of cartulary/outcome.lua and of what later.lua tells with it. Run: lua5.4 test/outcome.lua (from plugins/prosody).

package.path = "./?.lua;"..package.path;
local wire = require "cartulary.wire";

local told = {};
local function module_of(name, content) package.preload[name] = function () return content; end end
module_of("cartulary.link", { tell_in_turn = function (_, body)
	local frame = { n = 0 };
	for tag, value in wire.fields(body) do
		if tag == 3 then
			local d = { resources = {} };
			for t, v in wire.fields(value) do
				if t == 3 then d.resources[#d.resources + 1] = v; elseif t == 4 then d.result = v:byte(); elseif t == 5 then d.reason = v; end
				if t == 1 then d.bare = v; end
			end
			frame.n = frame.n + 1;
			frame[frame.n] = d;
		elseif tag == 4 then frame.final = value:byte() == 1;
		elseif tag == 1 then frame.id = value; end
	end
	told[#told + 1] = frame;
end });
module_of("cartulary.recipients", { USER = 1, ROOM = 2, OCCUPANT = 3 });
module_of("util.jid", { bare = function (jid) return jid and jid:match("^[^/]*"); end, host = function (jid) return jid:match("@([^/]*)"); end });
module_of("util.time", { now = function () return 1; end });
module_of("util.random", {});
module_of("util.stanza", { stanza = function (name, attr)
	local element = { name = name, attr = attr, tags = {} };
	function element:text(text) self[1] = text; return self; end
	function element:get_text() return self[1]; end
	return element;
end });
for _, name in ipairs { "cartulary.scope", "cartulary.notices" } do module_of(name, {}); end

local outcome = require "cartulary.outcome";
local later = require "cartulary.later";

local function message() return { event_id = ("i"):rep(16), deliveries = {}, target = 1, bare = "ben@x", from = "anna@x/desk" }; end
local tests = {};

function tests.ma_5_all_sessions_that_got_it_are_one_delivery_carbons_too()
	local held = message();
	outcome.carbon(held, "ben@x/phone", "phone", false);
	outcome.carbon(held, "anna@x/tablet", "tablet", true);
	outcome.copy(held, outcome.HANDED, "ben@x/desk", "desk");
	outcome.finish(held);
	local frame = told[1];
	assert(#told == 1 and frame.final and frame.n == 2);
	assert(frame[1].bare == "ben@x" and table.concat(frame[1].resources, " ") == "phone desk" and not frame[1].reason);
	assert(frame[2].bare == "anna@x" and frame[2].reason == "carbon");
end

function tests.what_is_stored_is_not_the_last_word_and_was_handed_to_carbons_only()
	local held = message();
	outcome.carbon(held, "ben@x/phone", "phone", false);
	outcome.copy(held, outcome.HANDED, "ben@x/desk", "desk"); -- its send failed
	outcome.stored(held, "ben@x");
	outcome.finish(held);
	local frame = told[1];
	assert(not frame.final and frame.n == 2);
	assert(table.concat(frame[1].resources, " ") == "phone" and frame[2].result == outcome.STORED);
end

local function stanza(id) return { name = "message", attr = { to = "rob@far/d", from = "anna@x/desk", id = id } }; end
local function bounce(id)
	return {
		name = "message", attr = { to = "anna@x/desk", from = "rob@far/d", id = id, type = "error" },
		get_error = function () return "cancel", "remote-server-not-found"; end,
	};
end

function tests.what_waits_for_a_stream_is_told_when_the_stream_is_ready()
	local held, session = message(), {};
	later.to_remote(held, stanza("1"), session, "far");
	outcome.finish(held);
	assert(#told == 0, "nothing is known yet");
	later.established(session);
	assert(#told == 1 and told[1].final and told[1][1].result == outcome.REMOTE and told[1][1].reason == "far");
	later.ended(session);
	assert(#told == 1);
end

function tests.what_never_got_a_stream_is_bounced_each_with_its_own_id()
	local session, ids = {}, {};
	for i = 1, 3 do
		local held = message();
		held.event_id = tostring(i):rep(16);
		ids[i] = held.event_id;
		later.to_remote(held, stanza(tostring(i)), session, "far");
		outcome.finish(held);
	end
	later.bounced(bounce("2"));
	later.bounced(bounce("1"));
	later.ended(session); -- 3 was of a kind that is not bounced
	assert(#told == 3 and told[1].id == ids[2] and told[2].id == ids[1] and told[3].id == ids[3]);
	assert(told[1][1].result == outcome.BOUNCED and told[1][1].reason == "remote-server-not-found" and told[1].final);
	assert(told[3][1].result == outcome.DROPPED);
end

function tests.a_room_with_someone_far_away_is_final_when_that_is_known()
	local held, session = message(), {};
	held.room = { get_occupant_jid = function (_, jid) return "room@r/"..jid:match("^[^@]*"); end };
	outcome.copy(held, outcome.HANDED, "ben@x/desk", "desk");
	later.to_remote(held, stanza("1"), session, "far");
	outcome.finish(held);
	assert(#told == 1 and not told[1].final);
	later.established(session);
	assert(#told == 2 and told[2].final);
end

local function stored_message(first)
	local stanza = { name = "message", attr = {}, tags = { first }, first };
	return stanza;
end
local session = { full_jid = "ben@x/desk", resource = "desk" };

function tests.ma_5_a_stored_message_is_told_by_its_id_when_it_is_delivered_and_carries_none_then()
	local held, stanza, in_store = message(), stored_message(), nil;
	later.store(held, function (_, event)
		in_store = { name = "message", attr = {}, event.stanza[1], tags = { event.stanza.tags[1] } };
		return true;
	end, "message/offline/handle", { stanza = stanza });
	assert(not stanza[1] and not stanza.tags[1] and in_store.tags[1]);
	assert(not later.is_stored(in_store), "not while the store is left alone");
	later.empty_store(function ()
		assert(later.is_stored(in_store));
		later.unstore(in_store, session);
	end);
	assert(not in_store[1] and not in_store.tags[1]);
	assert(#told == 1 and told[1].id == held.event_id and told[1].final and told[1][1].result == outcome.FROM_STORE);
	assert(told[1][1].resources[1] == "desk");
end

function tests.what_a_user_says_in_our_namespace_stays_a_users_word()
	local forged = { name = "event", attr = { xmlns = "urn:cartulary:event" }, get_text = function () return ("0"):rep(32); end };
	local stanza, in_store = stored_message(forged), nil;
	assert(not later.is_stored(stanza));
	-- Nothing is to be told of it, and it is stored all the same.
	later.store(nil, function (_, event)
		in_store = { name = "message", attr = {}, event.stanza[1], event.stanza[2], tags = { table.unpack(event.stanza.tags) } };
		return true;
	end, "message/offline/handle", { stanza = stanza });
	later.empty_store(function () later.unstore(in_store, session); end);
	assert(#told == 0 and in_store[1] == forged and in_store.tags[1] == forged and #in_store.tags == 1);
end

local failed = 0;
for name, law in pairs(tests) do
	told = {};
	local ok, problem = pcall(law);
	print((ok and "ok   " or "FAIL ")..name..(ok and "" or ": "..tostring(problem)));
	if not ok then failed = failed + 1; end
end
os.exit(failed == 0 and 0 or 1);
