-- Collects what became of a held message, where the server really delivers, and tells it in one
-- frame when its handling has ended.
--
-- Invariants: nothing is kept after the handling of the message; every outcome told is final.
-- "Handed to a session" means that the server's own send took it: the client has not confirmed it.

local wire = require "cartulary.wire";
local link = require "cartulary.link";
local recipients = require "cartulary.recipients";
local jid_bare = require "util.jid".bare;
local now = require "util.time".now;

local text, u8, concat = wire.text, wire.u8, table.concat;

local outcome = {};

outcome.UNKNOWN, outcome.HANDED, outcome.STORED, outcome.BOUNCED = 0, 1, 2, 3;
outcome.DROPPED, outcome.REMOTE, outcome.WITHHELD = 4, 5, 6;

-- Adds a delivery of `held`. Copies to the sessions of one occupant or user follow each other and
-- share an entry.
function outcome.add(held, result, bare, occupant, resource, reason)
	local list = held.deliveries;
	if not list then return; end
	local last = list[#list];
	if not last or last.bare ~= bare or last.occupant ~= occupant or last.result ~= result or last.reason ~= reason then
		last = { bare = bare, occupant = occupant, result = result, reason = reason };
		list[#list + 1] = last;
	end
	if resource then last[#last + 1] = resource; end
end

-- The copy for `jid`, an account's or session's real JID, in a room with its occupant JID.
function outcome.copy(held, result, jid, resource, reason)
	if not held.deliveries then return; end
	local occupant = held.room and held.room:get_occupant_jid(jid);
	outcome.add(held, result, jid_bare(jid), occupant, resource, reason);
end

-- The server answered the message with this error.
function outcome.error(held, stanza)
	if not held.deliveries then return; end
	local _, condition = stanza:get_error();
	outcome.add(held, outcome.BOUNCED, jid_bare(stanza.attr.from or held.to or held.from), nil, nil, condition);
end

-- Stored for an account: mod_message comes to this only after every session refused the copy.
function outcome.stored(held, bare)
	local list = held.deliveries;
	if not list then return; end
	for i = #list, 1, -1 do
		if list[i].bare == bare and list[i].result == outcome.HANDED and not list[i].reason then table.remove(list, i); end
	end
	outcome.add(held, outcome.STORED, bare);
end

local function encode(delivery)
	local parts = { text(1, delivery.bare), delivery.occupant and text(2, delivery.occupant) or "" };
	for i = 1, #delivery do parts[i + 2] = text(3, delivery[i]); end
	parts[#parts + 1] = u8(4, delivery.result);
	parts[#parts + 1] = delivery.reason and text(5, delivery.reason) or nil;
	return text(3, concat(parts));
end

-- Ends the outcome of `held` and tells it, if it is wanted. `failed`: a handler of the server threw.
function outcome.finish(held, failed)
	local list = held.deliveries;
	if not list then return; end
	held.deliveries = nil;
	local bare = held.bare;
	if failed then
		list[#list + 1] = { bare = bare, result = outcome.UNKNOWN, reason = "an error in the server" };
	elseif #list == 0 then
		-- Users and rooms deliver, store or answer; a service may do anything with a message.
		local delivers = held.target <= recipients.OCCUPANT;
		list[1] = { bare = bare, result = delivers and outcome.DROPPED or outcome.UNKNOWN };
	end
	local parts = { text(1, held.event_id), wire.time(2, math.floor(now() * 1e6)) };
	for i = 1, #list do parts[i + 2] = encode(list[i]); end
	parts[#parts + 1] = u8(4, 1);
	link.tell(wire.OUTCOME, concat(parts));
end

return outcome;
