-- The plugin's end of the event link: one Unix socket to the sidecar, questions and their answers.
--
-- Invariants: a question is settled exactly once: by its answer, by the time limit, or at once when
-- the link goes. `waiting` never exceeds the settings' max_waiting. Large messages that the sidecar does not
-- take are refused one by one and never cost the link. Settings outlive the link. Outcomes and notices that cannot be
-- written are kept in their order; those that find no room are counted.
-- What it does not do: decide. Callers decide what an unanswered question means, and count it here.

local wire = require "cartulary.wire";
local backlog = require "cartulary.backlog";
local server = require "net.server";
local timer = require "util.timer";
local time = require "util.time";
local log = require "util.logger".init("cartulary");

local FIRST_RETRY, LAST_RETRY = 0.1, 2; -- seconds
local REPORT = 5; -- seconds; how soon it is told what was decided alone
local TICK = 0.25; -- seconds; how coarse the time limit of an answer is
-- Bytes unsent, above which nothing is asked. The server's own limit (32 MiB) would close the connection, and
-- so take from everybody what one sender's large messages have filled.
local MAX_UNSENT = 16 * 1024 * 1024;
local WELCOME_WITHIN = 5; -- seconds; a sidecar that accepts and says nothing is left and tried again
-- What is kept of outcomes and notices: frames, bytes. A busy server makes some thousands a second.
local MAX_KEPT, MAX_KEPT_BYTES = 50000, 16 * 1024 * 1024;
-- Bytes unsent, above which they are kept here: the rest of what may be unsent is for questions, on which people wait.
local CONGESTED = 4 * 1024 * 1024;

local link = {
	path = os.getenv("CARTULARY_LINK") or "/run/cartulary/link.sock";
	settings = nil; -- the last settings received, nil before the first
	waiting = 0; -- questions without an answer
	ready = false; -- whether questions may be asked: connected, welcomed, and settings received
};

local conn; -- the connection, or nil
local stopped = true;
local retry_delay = FIRST_RETRY;
local greet; -- makes hello and snapshot; given by start()
local pending = {}; -- question by id
local next_id, oldest = 1, 1; -- ids are never used again; none below `oldest` is pending
local ticking = false;
local kept = backlog.new(MAX_KEPT, MAX_KEPT_BYTES);
local on_ready = {}; -- by name: functions to call when questions may be asked again

-- What had to be decided alone: told with each hello, forgotten when a welcome confirms it.
local alone = { delivered = 0, refused = 0, lost = 0, since = 0 };
local told = { delivered = 0, refused = 0, lost = 0 };
local function untold() return alone.delivered + alone.refused + alone.lost > 0; end

-- What is decided alone while there is a link (no answer in time, too many waiting) must not go untold until the
-- link is made again, which may be never.
local reporting = false;
local function report_soon()
	if reporting or not link.ready or not untold() then return; end
	reporting = true;
	timer.add_task(REPORT, function ()
		reporting = false;
		if link.ready and untold() then link.announce(); end
	end);
end

local function count(what)
	if not untold() then alone.since = math.floor(time.now() * 1e6); end
	alone[what] = alone[what] + 1;
	report_soon();
end
function link.count_delivered() count("delivered"); end
function link.count_refused() count("refused"); end

-- Bytes written and not yet taken by the socket. Prosody 13 keeps text or a buffer, 0.12 a list of texts, whose
-- length is taken piece by piece; other backends of the server than its usual one keep it elsewhere.
local chunks, measured, chunk_bytes = nil, 0, 0;
local function unsent()
	local buffer = conn.writebuffer;
	if not buffer then return 0; end
	if type(buffer) == "string" or getmetatable(buffer) then return #buffer; end
	if buffer ~= chunks or #buffer < measured then chunks, measured, chunk_bytes = buffer, 0, 0; end
	for i = measured + 1, #buffer do chunk_bytes = chunk_bytes + #buffer[i]; end
	measured = #buffer;
	return chunk_bytes;
end

local function settle(id, question, answer, failure)
	pending[id] = nil;
	link.waiting = link.waiting - 1;
	question.answer, question.failure = answer, failure;
	question.done(question); -- resumes whoever waits; may ask the next question at once
end

-- One timer for all questions: ids grow with time, so the oldest is always first.
local function tick()
	local limit = time.monotonic() - link.settings.answer_timeout;
	while oldest < next_id do
		local question = pending[oldest];
		if question then
			if question.asked > limit then return TICK; end
			settle(oldest, question, nil, "no answer in time");
		end
		oldest = oldest + 1;
	end
	ticking = false;
end

-- Asks about one stanza. `question` gets `answer` (a verdict) or `failure` (a reason) before
-- question.done(question) is called. Returns true, or nil and why nothing was asked.
function link.ask(question, body)
	if not link.ready then return nil, "no link"; end
	if link.waiting >= link.settings.max_waiting then return nil, "too many waiting"; end
	if not wire.fits(body) then return nil, "the stanza is too long"; end
	local before = unsent();
	if before > 0 and before + #body > MAX_UNSENT then return nil, "too much is waiting"; end
	local id = next_id;
	next_id = id + 1;
	question.asked = time.monotonic();
	pending[id] = question;
	link.waiting = link.waiting + 1;
	if not ticking then
		ticking = true;
		timer.add_task(TICK, tick);
	end
	conn:write(wire.frame(wire.EVENT, id, body));
	return true;
end

-- Writes a frame that needs no answer, now or not at all. Returns whether it was handed to the link; a frame that
-- does not fit is not. The server writes whatever one turn of its loop made in one go.
function link.tell(kind, body)
	if not conn or not wire.fits(body) then return false; end
	conn:write(wire.frame(kind, 0, body));
	return true;
end

-- Tells an event that nobody waits for: a message of the server's own. Returns whether it was handed to the link.
function link.post(body)
	if not link.ready or unsent() + #body > MAX_UNSENT then return false; end
	return link.tell(wire.EVENT, body);
end

-- Writes what was kept, as much as the socket takes; the rest follows when it has taken that.
local function catch_up()
	while link.ready and not kept:empty() and unsent() < CONGESTED do conn:write(kept:pop()); end
end

-- Tells an outcome or a notice: at once, or in its turn when there is a link that takes it.
function link.tell_in_turn(kind, body)
	if link.ready and kept:empty() and unsent() < CONGESTED then
		link.tell(kind, body);
	elseif not wire.fits(body) or not kept:push(wire.frame(kind, 0, body)) then
		if kind == wire.OUTCOME then count("lost"); end
	end
end

-- Has f() called whenever questions may be asked again, after what was kept; in the place of what had that name.
function link.on_ready(name, f)
	on_ready[name] = f;
end

-- Has what was written sent now, if the server can: it is about to exit.
function link.flush()
	if conn and conn.onwritable then pcall(conn.onwritable, conn); end
end

-- Says hello (again), with a snapshot.
function link.announce()
	if not conn then return; end
	told.delivered, told.refused, told.lost = alone.delivered, alone.refused, alone.lost;
	greet(alone);
end

local on_frame = {};

on_frame[wire.WELCOME] = function (_, body)
	local welcome = wire.welcome(body);
	if welcome.refused then
		log("error", "The sidecar refuses this plugin: %s", welcome.refused);
		return;
	end
	alone.delivered = alone.delivered - told.delivered;
	alone.refused = alone.refused - told.refused;
	alone.lost = alone.lost - told.lost;
	-- What was counted meanwhile is a report of its own: under the time of the one just confirmed the sidecar
	-- would take it for that one repeated, and count nothing.
	alone.since = untold() and math.max(math.floor(time.now() * 1e6), alone.since + 1) or 0;
	told.delivered, told.refused, told.lost = 0, 0, 0;
	retry_delay = FIRST_RETRY;
	log("info", "Linked to sidecar %s, protocol %s", welcome.version or "of unknown version", tostring(welcome.protocol));
end

on_frame[wire.SETTINGS] = function (_, body)
	link.settings = wire.settings(body);
	local again = not link.ready;
	link.ready = true;
	catch_up();
	report_soon();
	if again then
		for _, f in pairs(on_ready) do f(); end
	end
end

on_frame[wire.VERDICT] = function (id, body)
	local question = pending[id];
	if not question then return; end -- settled already, by the time limit
	local ok, verdict = pcall(wire.verdict, body);
	if ok then
		settle(id, question, verdict);
	else
		question.malformed = true;
		settle(id, question, nil, "malformed verdict: "..tostring(verdict));
	end
end

local connect;

local function again()
	if stopped then return; end
	timer.add_task(retry_delay, connect);
	retry_delay = math.min(retry_delay * 2, LAST_RETRY);
end

local function down(reason)
	conn, link.ready = nil, false;
	told.delivered, told.refused, told.lost = 0, 0, 0;
	log("warn", "The link to the sidecar is gone (%s), %d messages were waiting", reason or "closed", link.waiting);
	-- In the order asked. Settling may ask new questions; they are refused, since there is no link.
	local lost, first, last = pending, oldest, next_id - 1;
	pending, oldest, link.waiting = {}, next_id, 0;
	for id = first, last do
		local question = lost[id];
		if question then
			question.failure = "the link was lost";
			question.done(question);
		end
	end
	again();
end

local function new_listener()
	local listener, read = {}, wire.reader();
	function listener.onincoming(this, data)
		if this ~= conn then return; end
		local ok, problem = read(data, function (kind, id, body)
			local handle = on_frame[kind];
			if handle then -- other kinds are of a later version
				local handled, err = pcall(handle, id, body);
				if not handled then log("error", "Unusable frame 0x%02x from the sidecar: %s", kind, err); end
			end
			return this == conn;
		end);
		if not ok then
			-- Not left to ondisconnect: closing waits for what is still to be written.
			if this == conn then down("garbage received: "..problem); end
			this:close();
		end
	end
	function listener.ondisconnect(this, reason)
		if this == conn then down(reason); end
	end
	function listener.ondrain(this)
		if this == conn then catch_up(); end
	end
	-- Silence is normal.
	function listener.onreadtimeout() return true; end
	return listener;
end

-- Hides from the server that this is no TCP socket: it would set TCP options where the user's
-- network_settings say so, which LuaSocket answers with an error.
local function plain(socket)
	return setmetatable({ setoption = function () return true; end }, { __index = function (proxy, name)
		local method = socket[name];
		if type(method) ~= "function" then return method; end
		local function forward(_, ...) return method(socket, ...); end
		proxy[name] = forward;
		return forward;
	end });
end

local silent = false; -- whether the log has the present failure already

function connect()
	if conn or stopped then return; end
	local unix = require "socket.unix";
	local socket = (type(unix) == "table" and unix.stream or unix)();
	socket:settimeout(0);
	local ok, err = socket:connect(link.path);
	if not ok then
		socket:close();
		if not silent then log("warn", "No sidecar at %s (%s), trying again", link.path, err); end
		silent = true;
		return again();
	end
	silent = false;
	conn = server.wrapclient(plain(socket), "cartulary", 0, new_listener(), "*a");
	local this = conn;
	timer.add_task(WELCOME_WITHIN, function ()
		if this ~= conn or link.ready then return; end
		down("no welcome within "..WELCOME_WITHIN.." seconds");
		this:close();
	end);
	link.announce();
end

-- Connects, and keeps connecting. `greeting` is called with the counts (`delivered`, `refused`, `lost`,
-- `since`) and tells hello and snapshot.
function link.start(greeting)
	greet = greeting;
	if stopped then
		stopped = false;
		connect();
	else
		link.announce();
	end
end

return link;
