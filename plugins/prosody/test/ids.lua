-- Laws of cartulary/ids.lua. Run: lua5.4 test/ids.lua (from plugins/prosody).

package.path = "./?.lua;"..package.path;
local clock = 1700000000.123;
package.preload["util.time"] = function () return { now = function () return clock; end }; end;
package.preload["util.random"] = function ()
	return { bytes = function (n)
		local all = {};
		for i = 1, n do all[i] = string.char(math.random(0, 255)); end
		return table.concat(all);
	end };
end;
local ids = require "cartulary.ids";

local tests = {};

function tests.ids_never_repeat_and_grow_whatever_the_clock_does()
	local last, seen = "", {};
	for i = 1, 20000 do
		if i % 1000 == 0 then clock = clock + (i % 3000 == 0 and -5 or 0.001); end
		local id = ids.new();
		local start = id:sub(1, 8);
		assert(not seen[id] and start > last, "the "..i.."th");
		seen[id], last = true, start;
	end
end

function tests.an_id_is_a_uuid_of_version_7_with_the_time_in_front()
	clock = clock + 1000;
	local id = ids.new();
	assert(#id == 16);
	assert((string.unpack(">I6", id)) == math.floor(clock * 1000));
	assert(ids.text(id):match("^%x%x%x%x%x%x%x%x%-%x%x%x%x%-7%x%x%x%-[89ab]%x%x%x%-%x%x%x%x%x%x%x%x%x%x%x%x$"), ids.text(id));
end

function tests.text_comes_back_and_what_is_none_is_refused()
	for _ = 1, 100 do
		local id = ids.new();
		assert(ids.parse(ids.text(id)) == id);
	end
	for _, text in ipairs { "", "x", ("0"):rep(31), ("g"):rep(32), ("0"):rep(33) } do assert(ids.parse(text) == nil); end
end

local failed = 0;
for name, law in pairs(tests) do
	local ok, problem = pcall(law);
	print((ok and "ok   " or "FAIL ")..name..(ok and "" or ": "..tostring(problem)));
	if not ok then failed = failed + 1; end
end
os.exit(failed == 0 and 0 or 1);
