-- What is to be told and cannot be yet: frames in the order in which they were made, within bounds.
--
-- Invariants: first in, first out; what has no room is not taken, so that what was taken has no hole.
-- What it does not do: count what it did not take, or write.

local backlog = {};
backlog.__index = backlog;

-- Holds at most `max_count` frames with `max_bytes` in all.
function backlog.new(max_count, max_bytes)
	return setmetatable({ first = 1, last = 0, bytes = 0, max_count = max_count, max_bytes = max_bytes }, backlog);
end

function backlog:empty()
	return self.first > self.last;
end

-- Takes a frame; returns whether there was room.
function backlog:push(frame)
	if self.last - self.first + 1 >= self.max_count or self.bytes + #frame > self.max_bytes then return false; end
	self.last = self.last + 1;
	self[self.last] = frame;
	self.bytes = self.bytes + #frame;
	return true;
end

-- The oldest frame, removed; nil when empty.
function backlog:pop()
	local frame = self[self.first];
	if not frame then return nil; end
	self[self.first] = nil;
	self.first = self.first + 1;
	self.bytes = self.bytes - #frame;
	return frame;
end

return backlog;
