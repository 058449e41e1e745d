-- One queue for each sender on a stream that carries many: another server's, an external component's.
--
-- Invariants: what one sender said is handled in its order, presence and queries behind messages; a held message
-- delays nobody else. A stream with more than max_waiting stanzas in its queues is not read until half of them are handled.
-- Sender: the bare JID, so that the occupants of a remote room keep the order of their conversation.

local link = require "cartulary.link";
local streams = require "cartulary.streams";
local async = require "util.async";
local log = require "util.logger".init("cartulary");

local queues = {};

local IDLE = 50; -- coroutines kept for reuse
local LIMIT = 100; -- while there are no settings, and nothing waits
local idle = {};

local by_stream = setmetatable({}, { __mode = "k" }); -- { n, senders by key, conn, paused }

local function limit()
	return link.settings and math.max(link.settings.max_waiting, 1) or LIMIT;
end

local function leave(job)
	local stream, sender = job.stream, job.sender;
	stream.n, sender.n = stream.n - 1, sender.n - 1;
	if sender.n == 0 then
		stream.senders[job.key] = nil;
		if #idle < IDLE then idle[#idle + 1] = sender.runner; end
	end
	if stream.paused and stream.n <= limit() // 2 then
		stream.paused = false;
		pcall(stream.conn.resume, stream.conn);
		streams.read_on(stream.conn);
	end
end

local function work(job)
	local origin = job.origin;
	if origin.destroyed then origin = streams.stand_in(origin); end
	local ok, problem = xpcall(job.handle, debug.traceback, origin, job.stanza);
	leave(job);
	if not ok then log("error", "While handling a stanza from %s: %s", job.key, problem); end
end

local watchers = { error = function (_, problem) log("error", "In a queue: %s", problem); end };

-- Whether something of this sender is queued or being handled.
function queues.has(origin, key)
	local stream = by_stream[origin];
	return stream ~= nil and stream.senders[key] ~= nil;
end

-- Calls handle(origin, stanza), which may wait, now or after what the sender said before.
function queues.push(origin, key, handle, stanza)
	local stream = by_stream[origin];
	if not stream then
		stream = { n = 0, senders = {}, conn = origin.conn };
		by_stream[origin] = stream;
	end
	local sender = stream.senders[key];
	if not sender then
		sender = { n = 0, runner = table.remove(idle) or async.runner(work, watchers) };
		stream.senders[key] = sender;
	end
	stream.n, sender.n = stream.n + 1, sender.n + 1;
	if stream.n >= limit() and not stream.paused and stream.conn then
		stream.paused = pcall(stream.conn.pause, stream.conn);
	end
	sender.runner:run { handle = handle, origin = origin, stanza = stanza, stream = stream, sender = sender, key = key };
end

return queues;
