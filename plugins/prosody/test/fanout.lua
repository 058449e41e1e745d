-- Laws of cartulary/fanout.lua: what is a copy of a held message. Run: lua5.4 test/fanout.lua (from plugins/prosody).

package.path = "./?.lua;"..package.path;

-- What is loaded along and not called by these laws.
for _, name in ipairs { "util.stanza", "util.jid", "cartulary.scope", "cartulary.outcome", "cartulary.later", "cartulary.stanzas", "cartulary.notices" } do
	package.preload[name] = function () return {}; end;
end

local is_copy = require "cartulary.fanout".is_copy;

local function message(id, body, subject, kind)
	local texts = { body = body, subject = subject };
	return { attr = { id = id, type = kind }, get_child_text = function (_, name) return texts[name]; end };
end
local function held(stanza, room) return { stanza = stanza, id = stanza.attr.id, kind = stanza.attr.type, room = room }; end

local tests = {};

function tests.the_message_itself_and_a_clone_with_its_id_are_copies()
	local said = message("m1", "hello");
	assert(is_copy(held(said), said));
	assert(is_copy(held(said), message("m1", "hello")));
	assert(not is_copy(held(said), message("m2", "hello")));
end

function tests.a_reply_without_an_id_to_a_message_without_one_is_a_message_of_its_own()
	local said = held(message(nil, "what time is it?"));
	assert(is_copy(said, message(nil, "what time is it?")), "a clone");
	assert(not is_copy(said, message(nil, "five o'clock")), "a bot's reply");
	assert(not is_copy(said, message("b1", "what time is it?")), "a bot's echo with an id");
end

function tests.an_error_in_reaction_is_no_copy()
	assert(not is_copy(held(message("m1", "hello", nil, "chat")), message("m1", "hello", nil, "error")));
end

function tests.a_rooms_new_subject_is_a_copy_though_it_is_made_anew()
	local room = {};
	assert(is_copy(held(message("m1", nil, "lunch"), room), message("r1", nil, "lunch")));
	assert(not is_copy(held(message("m1", nil, "lunch"), room), message("r1", nil, "dinner")));
end

local failed = 0;
for name, test in pairs(tests) do
	local ok, err = pcall(test);
	print((ok and "ok   " or "FAIL ")..name..(ok and "" or ": "..tostring(err)));
	if not ok then failed = failed + 1; end
end
os.exit(failed == 0 and 0 or 1);
