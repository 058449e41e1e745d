-- Laws of cartulary/counts.lua. Run: lua5.4 test/counts.lua (from plugins/prosody).

package.path = "./?.lua;"..package.path;
local clock = 1700000000;
package.preload["util.time"] = function () return { now = function () return clock; end }; end;
local wire = require "cartulary.wire";

local function fresh()
	package.loaded["cartulary.counts"] = nil;
	return require "cartulary.counts";
end

-- What is told, by day: sums by tag.
local function report(counts, again, stopping)
	local told = {};
	counts.report(function (body)
		local sums = {};
		for tag, value in wire.fields(body) do sums[tag] = (string.unpack(">I"..#value, value)); end
		told[#told + 1] = sums;
		return true;
	end, again, stopping);
	return told;
end

local function balanced(sums)
	local rest = 0;
	for tag = 3, 9 do rest = rest + sums[tag]; end
	return sums[2] == rest;
end

local classes = { "recorded", "unrecorded", "refused", "refused_alone", "delivered_alone" };
local tests = {};

function tests.ev_2_said_is_the_sum_of_the_others_at_every_moment()
	math.randomseed(7);
	local counts = fresh();
	local queue, asking = {}, {};
	for _ = 1, 5000 do
		local what = math.random(4);
		if what == 1 then
			local stanza = {};
			queue[#queue + 1] = stanza;
			counts.said(stanza);
		elseif what == 2 and queue[1] then
			local held = {};
			counts.asking(held, table.remove(queue, math.random(#queue)));
			asking[#asking + 1] = held;
		elseif what == 3 and asking[1] then
			local held = table.remove(asking, math.random(#asking));
			counts.settled(held, classes[math.random(#classes)]);
			counts.settled(held, "refused_alone"); -- counts once
		elseif queue[1] then
			counts.ended(table.remove(queue, math.random(#queue)));
		end
		local told = report(counts, true);
		assert(#told == 1 and balanced(told[1]));
		assert(told[1][9] == #queue + #asking);
	end
end

function tests.an_event_says_the_time_that_its_day_was_counted_by()
	local counts = fresh();
	local midnight = (clock // 86400 + 1) * 86400;
	local before = clock;
	clock = midnight - 1;
	local stanza, held = {}, {};
	counts.said(stanza);
	clock = midnight + 5;
	assert(counts.read_at(held, stanza) == midnight - 1); -- asked about ahead of its turn
	counts.asking(held, stanza);
	assert(counts.read_at(held, stanza) == midnight - 1); -- and in its turn
	counts.settled(held, "recorded");
	local told = report(counts, true);
	assert(told[1][1] == midnight // 86400 - 1 and told[1][3] == 1 and balanced(told[1]));
	clock = before;
end

function tests.ev_2_a_message_that_went_by_unasked_is_missed()
	local counts = fresh();
	local by, asked, held = {}, {}, {};
	counts.said(by);
	counts.said(asked);
	counts.asking(held, asked);
	counts.settled(held, "recorded");
	assert(balanced(report(counts, true)[1]), "it waits");
	counts.went_by(by);
	local sums = report(counts, true)[1];
	assert(not balanced(sums) and sums[2] == 2 and sums[3] == 1);
end

function tests.a_message_that_nobody_was_seen_to_say_and_was_asked_about_is_seen_in_the_sums()
	local counts, held = fresh(), {};
	counts.asking(held, {});
	counts.settled(held, "recorded");
	assert(not balanced(report(counts, true)[1]));
end

function tests.a_message_counts_for_the_day_it_was_read_and_a_day_is_final_when_nothing_of_it_waits()
	clock = 86400 * 20000 - 1;
	local counts = fresh();
	local stanza, held = {}, {};
	counts.said(stanza);
	report(counts);
	clock = clock + 2;
	local told = report(counts);
	assert(#told == 1 and told[1][1] == 20000, "the new day; the old one waits and is as it was");
	counts.asking(held, stanza);
	counts.settled(held, "recorded");
	told = report(counts);
	assert(#told == 1 and told[1][1] == 19999 and told[1][3] == 1 and told[1][9] == 0 and told[1][10] == 1);
	assert(#report(counts) == 0 and #report(counts) == 0, "nothing changed");
	assert(report(counts, true)[1][1] == 20000, "a day told for good is forgotten");
end

function tests.a_new_link_is_told_every_day_that_is_kept_and_the_end_is_final()
	clock = 86400 * 21000;
	local counts = fresh();
	counts.said({});
	counts.report(function () return false; end); -- nobody there
	clock = clock + 86400;
	counts.said({});
	local told = report(counts, true);
	assert(#told == 2 and told[1][10] == 0 and told[2][10] == 0);
	told = report(counts, false, true);
	assert(#told == 2 and told[1][10] == 1 and told[2][10] == 1);
end

function tests.the_class_of_a_verdict()
	local class = fresh().class;
	assert(class { action = wire.BOUNCE, event_id = "x" } == "recorded");
	assert(class { action = wire.DELIVER } == "unrecorded");
	assert(class { action = wire.DROP } == "refused" and class { action = wire.BOUNCE } == "refused");
end

local failed = 0;
for name, law in pairs(tests) do
	local ok, problem = pcall(law);
	print((ok and "ok   " or "FAIL ")..name..(ok and "" or ": "..tostring(problem)));
	if not ok then failed = failed + 1; end
end
os.exit(failed == 0 and 0 or 1);
