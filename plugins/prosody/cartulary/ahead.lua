-- Asks about the messages a client has already sent while an earlier one of the same session waits.
--
-- Prosody handles a session's stanzas one after the other; what arrived meanwhile stands parsed in the session's
-- queue. Asking for each only when its turn comes costs a round trip, a pause and a wake-up for each, and
-- undoes all batching. So the messages that follow directly in the queue are asked about at once,
-- in their order, and find their verdict when their turn comes. Handling is still one at a time, in
-- order: any other stanza in the queue ends the look ahead, since it may change what a message means
-- (leaving a room, say).
-- An optimisation only: a message that was not asked ahead is asked in its turn.

local jid_prep = require "util.jid".prep;

local ahead = {};

local hosts, full_sessions, bare_sessions = prosody.hosts, prosody.full_sessions, prosody.bare_sessions;

-- By session, by stanza: what was asked and not yet taken.
local asked = setmetatable({}, { __mode = "k" });

-- What mod_message would see of a queued stanza later is known now: the router will stamp the sender and
-- find the addressee as it stands. Where it would rewrite or refuse, the stanza waits its turn.
local function ready(origin, stanza)
	local attr = stanza.attr;
	if stanza.name ~= "message" or not attr or attr.xmlns then return false; end
	if attr.type == "error" and #stanza.tags == 0 then return false; end
	local to = attr.to;
	if to == origin.username.."@"..origin.host then return false; end
	if to and not (full_sessions[to] or bare_sessions[to] or hosts[to]) and jid_prep(to) ~= to then return false; end
	return true;
end

local function look(origin, stanza, pose)
	local queue = origin.thread and origin.thread.queue;
	local last = queue and #queue or 0;
	if last == 0 then return; end
	local mine = asked[origin];
	if mine and mine[queue[last]] then return; end
	local first = 1;
	for i = 1, last do
		if queue[i] == stanza then first = i + 1; break; end
	end
	if first > last then return; end
	if not mine then
		mine = {};
		asked[origin] = mine;
	end
	for i = first, last do
		local following = queue[i];
		if not mine[following] then
			if not ready(origin, following) then return; end
			following.attr.from = origin.full_jid;
			local held = {};
			if not pose(held, following, origin, 1, origin.host) then return; end
			mine[following] = held;
		end
	end
end

-- Asks, with pose(held, stanza, origin, ingress, host), about what follows `stanza` in the queue of the session.
-- A failure shows again in that message's turn, and is dealt with there.
function ahead.ask(origin, stanza, pose)
	pcall(look, origin, stanza, pose);
end

-- What was asked about this stanza, or nil. `origin` may be a stand-in: the queue is handled to its end.
function ahead.take(origin, stanza)
	local mine = asked[origin.cartulary_of or origin];
	local held = mine and mine[stanza];
	if held then mine[stanza] = nil; end
	return held;
end

return ahead;
