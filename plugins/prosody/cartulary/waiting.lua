-- Waiting for the answer to a question on the running coroutine.
--
-- What it does not do: ask, or say what an answer means.

local streams = require "cartulary.streams";
local async = require "util.async";

local waiting = {};

-- What link.ask() calls when a question is settled: by an answer, or by a failure.
function waiting.settle(question)
	question.settled = true;
	if question.wake then question.wake(); end
end

-- Prosody stops reading from a session that waits, and reads on when its runner says so.
local reading_on = setmetatable({}, { __mode = "k" }); -- runners that look for the rest then

local function have_rest_read(runner)
	if not runner or not runner.watchers or not runner.watchers.waiting or reading_on[runner] then return; end
	reading_on[runner] = true;
	local theirs = runner.watchers;
	local ours = { ready = function (self, ...)
		if theirs.ready then theirs.ready(self, ...); end
		streams.read_on(self.data and self.data.conn);
	end };
	runner.watchers = setmetatable(ours, { __index = theirs });
end

-- Suspends the running coroutine until `question` is settled. `session`: the client's whose coroutine it is, or nil.
function waiting.on(question, session)
	if question.settled then return; end
	local wait, done = async.waiter();
	question.wake = done;
	if session then have_rest_read(rawget(session, "thread")); end
	wait();
end

return waiting;
