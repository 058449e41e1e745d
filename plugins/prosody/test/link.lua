-- Laws of cartulary/link.lua, on a server made of tables. Run: lua5.4 test/link.lua (from plugins/prosody).

package.path = "./?.lua;"..package.path;
local wire = require "cartulary.wire";

local clock, listener = 1000, nil;
local conn = { written = {} };
function conn:write(data) self.written[#self.written + 1] = data; end
function conn.close() end

local function module_of(name, content) package.preload[name] = function () return content; end end
module_of("net.server", { wrapclient = function (_, _, _, listeners) listener = listeners; return conn; end });
module_of("util.timer", { add_task = function () end });
module_of("util.time", { now = function () return clock; end, monotonic = function () return clock; end });
module_of("util.logger", { init = function () return function () end; end });
module_of("socket.unix", function ()
	return { settimeout = function () end, connect = function () return true; end, close = function () end };
end);

local link = require "cartulary.link";
local told;
local function greet(counts) told = { delivered = counts.delivered, refused = counts.refused, since = counts.since }; end

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

link.start(greet);
local failed = 0;
for name, law in pairs(tests) do
	local ok, problem = pcall(law);
	print((ok and "ok   " or "FAIL ")..name..(ok and "" or ": "..tostring(problem)));
	if not ok then failed = failed + 1; end
end
os.exit(failed == 0 and 0 or 1);
