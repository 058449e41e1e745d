-- Laws of cartulary/wire.lua. Run: lua5.4 test/wire.lua (from plugins/prosody). Needs nothing but Lua.

package.path = "./?.lua;"..package.path;
local wire = require "cartulary.wire";

local tests = {};

local function frames(bytes, piece)
	local read, found = wire.reader(), {};
	local ok, problem = true, nil;
	for first = 1, #bytes, piece do
		ok, problem = read(bytes:sub(first, first + piece - 1), function (kind, id, body)
			found[#found + 1] = kind.." "..id.." "..body;
		end);
		if not ok then break; end
	end
	return found, problem;
end

local function fails(f, ...)
	return not pcall(f, ...);
end

function tests.frames_are_read_alike_however_the_stream_is_cut()
	local bytes = wire.frame(wire.VERDICT, 7, "abc")..wire.frame(wire.WELCOME, 0, "")..wire.frame(0x99, 2, ("x"):rep(100));
	local whole = table.concat((frames(bytes, #bytes)), "|");
	assert(whole:find("^130 7 abc|129 0 |153 2 xxx"));
	for piece = 1, #bytes do assert(table.concat((frames(bytes, piece)), "|") == whole); end
end

function tests.a_length_out_of_range_ends_the_reading()
	for _, length in ipairs { 0, 8, 16777217, 4294967295 } do
		local found, problem = frames(wire.frame(1, 0, "")..string.pack(">I4", length), 5);
		assert(#found == 1 and problem:find(tostring(length), 1, true));
	end
end

function tests.a_reader_stops_when_told()
	local seen = 0;
	wire.reader()(wire.frame(1, 0, "")..wire.frame(1, 0, ""), function () seen = seen + 1; return false; end);
	assert(seen == 1);
end

function tests.fields_come_back_as_written_and_cut_ones_are_errors()
	local body = wire.text(1, "é")..wire.u8(2, 255)..wire.u16(3, 258)..wire.u64(4, -1)..wire.text(5, "");
	local got = {};
	for tag, value in wire.fields(body) do got[tag] = value; end
	assert(got[1] == "é" and got[2] == "\255" and got[3] == "\1\2" and got[4] == ("\255"):rep(8) and got[5] == "");
	local function read(bytes) for _ in wire.fields(bytes) do end end -- luacheck: ignore 542
	read(wire.text(1, "ab"));
	for length = 1, #wire.text(1, "ab") - 1 do assert(fails(read, wire.text(1, "ab"):sub(1, length)), length); end
end

function tests.a_verdict_is_read_with_its_exceptions()
	local x = wire.text(1, "a@b")..wire.u8(2, wire.REPLACE)..wire.text(3, "<message/>");
	local v = wire.verdict(wire.u8(1, 0)..wire.text(6, x)..wire.text(7, ("i"):rep(16))..wire.u8(8, 1)..wire.text(9, "phone")..wire.text(99, "later"));
	assert(v.resource == "phone" and v.action == wire.DELIVER and v.outcome_wanted and v.event_id == ("i"):rep(16));
	assert(v.exceptions["a@b"].action == wire.REPLACE and v.exceptions["a@b"].replacement == "<message/>");
end

function tests.a_verdict_that_cannot_be_carried_out_is_an_error()
	for _, body in ipairs {
		"", -- no action
		wire.u8(1, 4), -- unknown action
		wire.text(1, ""), wire.text(1, "\0\0"), -- not one byte
		wire.u8(1, 1), -- no replacement
		wire.u8(1, 0)..wire.text(7, "short"),
		wire.u8(1, 0)..wire.text(6, wire.u8(2, 2)), -- no recipient
		wire.u8(1, 0)..wire.text(6, wire.text(1, "a")), -- no action
		wire.u8(1, 0)..wire.text(6, wire.text(1, "a")..wire.u8(2, 9)),
		wire.u8(1, 0)..wire.text(6, wire.text(1, "a")..wire.u8(2, 1)),
	} do
		assert(fails(wire.verdict, body), ("%q"):format(body));
	end
end

function tests.settings_are_whole_or_an_error()
	local whole = wire.u8(1, 1)..string.pack(">I2I4I4", 2, 4, 1500)..string.pack(">I2I4I4", 3, 4, 10)..wire.u64(4, 3);
	local s = wire.settings(whole);
	assert(s.deliver_unanswered == true and s.answer_timeout == 1.5 and s.max_waiting == 10 and s.generation == 3);
	assert(fails(wire.settings, ""));
	assert(fails(wire.settings, wire.u8(1, 0)));
	assert(fails(wire.settings, (whole:gsub("^(......)\1", "%1\2"))));
	assert(s.ask_about == nil);
	local function about(subject, unanswered) return wire.text(5, wire.text(1, subject)..wire.u8(2, unanswered)); end
	s = wire.settings(whole..about("iq", 1)..about("bind", 0)..about("of a later version", 0));
	assert(s.ask_about.iq.deliver == true and s.ask_about.bind.deliver == false and not s.ask_about.presence);
	assert(fails(wire.settings, whole..about("iq", 2)));
	assert(fails(wire.settings, whole..wire.text(5, wire.text(1, "iq"))));
	assert(fails(wire.settings, whole..wire.text(5, wire.u8(2, 1))));
end

local failed = 0;
for name, test in pairs(tests) do
	local ok, problem = xpcall(test, debug.traceback);
	print((ok and "ok   " or "FAIL ")..name..(ok and "" or "\n"..problem));
	if not ok then failed = failed + 1; end
end
os.exit(failed == 0 and 0 or 1);
