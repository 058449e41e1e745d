-- Laws of cartulary/link.lua, on a server made of tables. Run: lua5.4 test/link.lua (from plugins/prosody).

package.path = "./?.lua;"..package.path;
local wire = require "cartulary.wire";

local clock, listener = 1000, nil;
local conn = { written = {} };
function conn:write(data) self.written[#self.written + 1] = data; end
local timers = {};
function conn.close() end

local function module_of(name, content) package.preload[name] = function () return content; end end
module_of("net.server", { wrapclient = function (_, _, _, listeners) listener = listeners; conn.written = {}; return conn; end });
module_of("util.timer", { add_task = function (delay, f) timers[#timers + 1] = { delay, f }; end });
module_of("util.time", { now = function () return clock; end, monotonic = function () return clock; end });
module_of("util.logger", { init = function () return function () end; end });
module_of("socket.unix", function ()
	return { settimeout = function () end, connect = function () return true; end, close = function () end };
end);

local link, told;
local function greet(counts) told = { delivered = counts.delivered, refused = counts.refused, lost = counts.lost, since = counts.since }; end

local function fresh()
	package.loaded["cartulary.link"], package.loaded["cartulary.backlog"] = nil, nil;
	timers, conn.writebuffer = {}, nil;
	link = require "cartulary.link";
	link.start(greet);
end

local function receive(kind, body) listener.onincoming(conn, wire.frame(kind, 0, body)); end
local function welcome() receive(wire.WELCOME, wire.u16(1, 1)); end
local function settings(max_waiting)
	receive(wire.SETTINGS, wire.u8(1, 1)..string.pack(">I2I4I4I2I4I4I2I4i8", 2, 4, 1000, 3, 4, max_waiting, 4, 8, 1));
end

local tests = {};

-- What the sidecar counts: a report with the time of the last one is that one repeated.
function tests.each_message_delivered_alone_is_reported_however_hellos_and_welcomes_interleave()
	local counted, known = 0, { since = 0, delivered = 0 };
	local function sidecar_takes()
		counted = counted + told.delivered - (told.since == known.since and math.min(known.delivered, told.delivered) or 0);
		known = told;
	end
	link.count_delivered();
	link.count_delivered();
	link.announce();
	sidecar_takes();
	link.count_delivered(); -- before the welcome
	welcome();
	link.announce();
	sidecar_takes();
	assert(counted == 3, counted.." of 3 were counted");
	link.announce(); -- the welcome was lost: a repetition
	sidecar_takes();
	assert(counted == 3, counted.." of 3 were counted");
	welcome();
	link.announce();
	assert(told.delivered == 0 and told.since == 0);
end

function tests.large_messages_that_wait_to_be_sent_are_refused_and_do_not_fill_the_connection()
	settings(100);
	local question = { done = function () end };
	conn.writebuffer = ("x"):rep(16 * 1024 * 1024);
	local asked, why = link.ask(question, "small");
	assert(not asked and why == "too much is waiting" and link.waiting == 0);
	for _, unsent in ipairs { "", "some" } do
		conn.writebuffer = unsent;
		assert(link.ask(question, "small"));
	end
	conn.writebuffer = nil;
	assert(link.ask(question, ("x"):rep(16 * 1024 * 1024 - 9)), "one alone always goes");
	assert(link.waiting == 3);
end

local function disconnect() listener.ondisconnect(conn, "gone"); end
local function run_timers()
	local due = timers;
	timers = {};
	for _, timer in ipairs(due) do timer[2](); end
end
-- The bodies of what was written of a kind.
local function written(kind)
	local found = {};
	local read = wire.reader();
	read(table.concat(conn.written), function (k, _, body)
		if k == kind then found[#found + 1] = body; end
	end);
	return found;
end

function tests.what_finds_no_link_is_told_in_its_order_after_the_next_settings()
	settings(100);
	disconnect();
	for i = 1, 100 do link.tell_in_turn(i % 2 == 0 and wire.OUTCOME or wire.NOTICE, tostring(i)); end
	run_timers(); -- connects
	link.tell_in_turn(wire.OUTCOME, "101");
	assert(#written(wire.OUTCOME) == 0 and #written(wire.NOTICE) == 0, "not before there is a sidecar that listens");
	welcome();
	settings(100);
	link.tell_in_turn(wire.OUTCOME, "102");
	local all = written(wire.OUTCOME);
	assert(#all == 52 and #written(wire.NOTICE) == 50);
	for i = 1, 50 do assert(all[i] == tostring(i * 2)); end
	assert(all[51] == "101" and all[52] == "102");
end

function tests.a_congested_link_is_told_when_it_has_drained_and_loses_nothing()
	settings(100);
	conn.written, conn.writebuffer = {}, ("x"):rep(5 * 1024 * 1024);
	for i = 1, 10 do link.tell_in_turn(wire.OUTCOME, tostring(i)); end
	assert(#conn.written == 0);
	conn.writebuffer = nil;
	link.tell_in_turn(wire.OUTCOME, "11"); -- not before the others
	listener.ondrain(conn);
	local all = written(wire.OUTCOME);
	assert(#all == 11);
	for i = 1, 11 do assert(all[i] == tostring(i)); end
end

function tests.outcomes_that_find_no_room_are_counted_until_a_welcome_confirms_it()
	settings(100);
	disconnect();
	for i = 1, 50010 do link.tell_in_turn(wire.OUTCOME, tostring(i)); end
	run_timers();
	assert(told.lost == 10, tostring(told.lost));
	welcome();
	settings(100);
	assert(#written(wire.OUTCOME) == 50000);
	link.announce();
	assert(told.lost == 0);
end

function tests.unsent_bytes_are_measured_where_the_server_keeps_a_list()
	settings(100);
	local list = { ("x"):rep(10 * 1024 * 1024) };
	conn.writebuffer = list;
	local question = { done = function () end };
	assert(link.ask(question, "small"));
	list[2] = ("x"):rep(7 * 1024 * 1024);
	local asked, why = link.ask(question, "small");
	assert(not asked and why == "too much is waiting");
	conn.writebuffer = nil;
end

function tests.a_sidecar_that_says_nothing_is_left_and_tried_again()
	disconnect();
	run_timers(); -- connects; the sidecar says nothing
	local limit = timers[#timers];
	assert(limit[1] == 5);
	local closed = false;
	local close = conn.close;
	conn.close = function () closed = true; end
	timers = {};
	limit[2]();
	conn.close = close;
	assert(closed and #timers == 1, "left, and a retry is due");
	run_timers();
	welcome();
	settings(100);
	assert(link.ready);
end

local failed = 0;
for name, law in pairs(tests) do
	fresh();
	local ok, problem = pcall(law);
	print((ok and "ok   " or "FAIL ")..name..(ok and "" or ": "..tostring(problem)));
	if not ok then failed = failed + 1; end
end
os.exit(failed == 0 and 0 or 1);
