-- Which held message the running coroutine is handling.
--
-- Prosody handles a stanza synchronously to its end: archive, carbons, fan-out to a room's occupants, delivery,
-- errors. Whatever passes our hooks meanwhile, on the same coroutine, belongs to that message; no mark on the
-- stanza is needed, and none is ever seen on the wire. If a handler of another module suspends the coroutine,
-- other coroutines have their own scope.

local running = coroutine.running;

local scope = {};
local current = setmetatable({}, { __mode = "k" });

-- The held message (see gate.lua) being handled, or nil.
function scope.current()
	return current[running()];
end

-- Calls f(a, b, c, d) with `held` as the current message; `held` may be nil. Returns pcall's results.
function scope.run(held, f, a, b, c, d)
	local thread = running();
	local outer = current[thread];
	current[thread] = held;
	local ok, result = pcall(f, a, b, c, d);
	current[thread] = outer;
	return ok, result;
end

return scope;
