-- Collects what became of a held message, where the server really delivers, and tells it in one
-- frame when its handling has ended.
--
-- Invariants: nothing is kept after the handling of the message but what is still open (later.lua); an outcome is final
-- when nothing of the message is stored or waits for another server's stream.
-- "Handed to a session" means that the server's own send took it: the client has not confirmed it.

local wire = require "cartulary.wire";
local link = require "cartulary.link";
local recipients = require "cartulary.recipients";
local jid_bare = require "util.jid".bare;
local now = require "util.time".now;

local text, u8, concat = wire.text, wire.u8, table.concat;

local outcome = {};

outcome.UNKNOWN, outcome.HANDED, outcome.STORED, outcome.BOUNCED = 0, 1, 2, 3;
outcome.DROPPED, outcome.REMOTE, outcome.WITHHELD, outcome.FROM_STORE = 4, 5, 6, 7;

local function same(entry, result, bare, occupant, reason)
	return entry ~= nil and entry.bare == bare and entry.occupant == occupant and entry.result == result and entry.reason == reason;
end

-- Adds a delivery of `held`. Copies to the sessions of one user share an entry, also where another's come between
-- (carbons); those of a room, which may be many, follow each other.
function outcome.add(held, result, bare, occupant, resource, reason)
	local list = held.deliveries;
	if not list then return; end
	local i = #list;
	while i > 1 and not held.room and not same(list[i], result, bare, occupant, reason) do i = i - 1; end
	local entry = list[i];
	if not same(entry, result, bare, occupant, reason) then
		entry = { bare = bare, occupant = occupant, result = result, reason = reason };
		list[#list + 1] = entry;
	end
	if resource then entry[#entry + 1] = resource; end
	return entry;
end

-- The copy for `jid`, an account's or session's real JID, in a room with its occupant JID.
function outcome.copy(held, result, jid, resource, reason)
	if not held.deliveries then return; end
	local occupant = held.room and held.room:get_occupant_jid(jid);
	return outcome.add(held, result, jid_bare(jid), occupant, resource, reason);
end

-- A carbon copy went to this session: to the addressee's it is one delivery with the others (MA-5), to the sender's own
-- it is another.
function outcome.carbon(held, jid, resource, sent)
	local entry = outcome.copy(held, outcome.HANDED, jid, resource, sent and "carbon" or nil);
	if not entry or sent then return; end
	entry.carbons = entry.carbons or {};
	entry.carbons[#entry.carbons + 1] = resource;
end

-- The server answered the message with this error.
function outcome.error(held, stanza)
	if not held.deliveries then return; end
	local _, condition = stanza:get_error();
	outcome.add(held, outcome.BOUNCED, jid_bare(stanza.attr.from or held.to or held.from), nil, nil, condition);
end

-- Stored for an account: mod_message comes to this only after every session refused the copy. Carbons were given all the same.
function outcome.stored(held, bare)
	local list = held.deliveries;
	if not list then return; end
	for i = #list, 1, -1 do
		local entry = list[i];
		if entry.bare == bare and entry.result == outcome.HANDED and not entry.reason then
			if entry.carbons then
				for k = #entry, 1, -1 do entry[k] = nil; end
				table.move(entry.carbons, 1, #entry.carbons, 1, entry);
			else
				table.remove(list, i);
			end
		end
	end
	outcome.add(held, outcome.STORED, bare);
	outcome.open(held);
end

-- Something of this message is not decided yet: what to tell it with, { id, open, ended }.
function outcome.open(held)
	local fate = held.fate;
	if not fate then
		fate = { id = held.event_id, open = 0, ended = false };
		held.fate = fate;
	end
	fate.open = fate.open + 1;
	return fate;
end

local function encode(delivery)
	local parts = { text(1, delivery.bare), delivery.occupant and text(2, delivery.occupant) or "" };
	for i = 1, #delivery do parts[i + 2] = text(3, delivery[i]); end
	parts[#parts + 1] = u8(4, delivery.result);
	parts[#parts + 1] = delivery.reason and text(5, delivery.reason) or nil;
	return text(3, concat(parts));
end

-- Tells deliveries of an event.
function outcome.tell(event_id, list, final)
	local parts = { text(1, event_id), wire.time(2, math.floor(now() * 1e6)) };
	for i = 1, #list do parts[i + 2] = encode(list[i]); end
	parts[#parts + 1] = u8(4, final and 1 or 0);
	link.tell_in_turn(wire.OUTCOME, concat(parts));
end

-- Tells what became of something that was open.
function outcome.tell_open(fate, delivery)
	fate.open = fate.open - 1;
	outcome.tell(fate.id, { delivery }, fate.ended and fate.open == 0);
end

-- Ends the outcome of `held` and tells it, if it is wanted. `failed`: a handler of the server threw.
function outcome.finish(held, failed)
	local list, fate = held.deliveries, held.fate;
	if not list then return; end
	held.deliveries = nil;
	local open = fate and fate.open > 0;
	if fate then fate.ended = true; end
	if failed then
		list[#list + 1] = { bare = held.bare, result = outcome.UNKNOWN, reason = "an error in the server" };
	elseif #list == 0 then
		if open then return; end
		-- Users and rooms deliver, store or answer; a service may do anything with a message.
		local delivers = held.target <= recipients.OCCUPANT;
		if not fate then list[1] = { bare = held.bare, result = delivers and outcome.DROPPED or outcome.UNKNOWN }; end
	end
	outcome.tell(held.event_id, list, not open);
end

return outcome;
