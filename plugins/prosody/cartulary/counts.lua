-- How many messages came in, and what was answered about them (EV-2): sums of a UTC day since the server's process started.
--
-- `said` is counted where streams are read, the rest where messages are asked about, each by itself. So `said` is the sum of the others
-- unless a message went by unasked; nothing here is computed from that equation. Sums live as long as the process: this library
-- is loaded once, whatever is reloaded.

local wire = require "cartulary.wire";
local time_now = require "util.time".now;

local floor = math.floor;

local counts = {};

local DAY = 86400; -- seconds
local KEPT = 32; -- days kept while there is nobody to tell

local days = {}; -- by number; a day ends here when its last word was told
local current, first_second, next_second = nil, 0, 0;

-- When each message was read, seconds, until it is asked about or ended.
local read = setmetatable({}, { __mode = "k" });

local function today(now)
	now = now or time_now();
	if now >= next_second or now < first_second then
		local number = floor(now / DAY);
		first_second, next_second = number * DAY, (number + 1) * DAY;
		current = days[number];
		if not current then
			current = {
				number = number, said = 0, recorded = 0, unrecorded = 0, refused = 0, refused_alone = 0, delivered_alone = 0,
				ended_before = 0, queued = 0, asking = 0, changed = true,
			};
			days[number], days[number - KEPT] = current, nil;
		end
	end
	return current;
end

-- A message was read from a stream.
function counts.said(stanza)
	local now = time_now();
	local day = today(now);
	day.said, day.queued, day.changed = day.said + 1, day.queued + 1, true;
	read[stanza] = now;
end

-- When a message was read, seconds; of one that nobody was seen to say, now. Its event says the same, so that archive and counts
-- mean the same day.
function counts.read_at(held, stanza)
	return held and held.read_at or read[stanza] or time_now();
end

-- Whether it was read, and nobody was asked about it yet.
function counts.is_open(stanza)
	return read[stanza] ~= nil;
end

local function leave_queue(stanza)
	local at = read[stanza];
	local day = at and days[floor(at / DAY)];
	read[stanza] = nil;
	if not day then return nil; end
	day.queued, day.changed = day.queued - 1, true;
	return day;
end

-- It is asked about; `held` carries the day until counts.settled(). A message that nobody was seen to say is of today.
function counts.asking(held, stanza)
	held.read_at = counts.read_at(held, stanza);
	local day = leave_queue(stanza) or today(held.read_at);
	day.asking, day.changed = day.asking + 1, true;
	held.day = day;
end

-- What was answered: the name of a class. Counts once.
function counts.settled(held, class)
	local day = held.day;
	if not day then return; end
	held.day = nil;
	day.asking, day[class], day.changed = day.asking - 1, day[class] + 1, true;
end

-- The server ended it before anybody could be asked.
function counts.ended(stanza)
	local day = leave_queue(stanza);
	if day then day.ended_before = day.ended_before + 1; end
end

-- The server is done with it, and nobody was asked: from now on the sums differ by one.
counts.went_by = leave_queue;

-- The class of a verdict.
function counts.class(verdict)
	if verdict.event_id then return "recorded"; end
	local passes = verdict.action == wire.DELIVER or verdict.action == wire.REPLACE;
	return passes and "unrecorded" or "refused";
end

local function encode(day, final)
	local u64 = wire.u64;
	return wire.u32(1, day.number)..u64(2, day.said)..u64(3, day.recorded)..u64(4, day.unrecorded)..u64(5, day.refused)
		..u64(6, day.refused_alone)..u64(7, day.delivered_alone)..u64(8, day.ended_before)..u64(9, day.queued + day.asking)
		..wire.u8(10, final and 1 or 0);
end

-- Tells, with tell(frame body), each day that is not told as it stands; after a new link (`again`) each day. `stopping`: nothing more
-- comes in this process. A day that is over and told for good is forgotten when the next report finds the same link.
function counts.report(tell, again, stopping)
	today();
	local numbers = {};
	for number in pairs(days) do numbers[#numbers + 1] = number; end
	table.sort(numbers);
	for _, number in ipairs(numbers) do
		local day = days[number];
		local final = stopping or day ~= current and day.queued + day.asking == 0;
		if again then day.final = nil; end
		if day.final and day ~= current and not day.changed then
			days[number] = nil;
		elseif again or day.changed or final and not day.final then
			if not tell(encode(day, final)) then return; end
			day.changed, day.final = false, final or nil;
		end
	end
end

return counts;
