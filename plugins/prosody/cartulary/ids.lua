-- Event ids: UUIDv7 (RFC 9562, 5.7) as 16 bytes.
--
-- Invariant: never the same twice. In this process time and sequence only grow, whatever the clock does; between
-- processes 62 random bits tell ids of the same millisecond apart.

local random = require "util.random".bytes;
local now = require "util.time".now;

local pack, sub, byte, floor = string.pack, string.sub, string.byte, math.floor;

local ids = {};

local POOL = 8 * 512; -- random bytes drawn at once
local pool, used = "", 0;
local last, sequence = 0, 0;

-- A new id.
function ids.new()
	local ms = floor(now() * 1000);
	if ms > last then
		last, sequence = ms, 0;
	elseif sequence < 0xfff then
		sequence = sequence + 1;
	else
		last, sequence = last + 1, 0;
	end
	if used == #pool then pool, used = random(POOL), 0; end
	local first = byte(pool, used + 1);
	local rest = sub(pool, used + 2, used + 8);
	used = used + 8;
	return pack(">I6I2B", last, 0x7000 | sequence, 0x80 | first & 0x3f)..rest;
end

-- An id as text, and back: nil where the text is none.
function ids.text(id)
	return (("%02x"):rep(16):format(byte(id, 1, 16)):gsub("^(........)(....)(....)(....)", "%1-%2-%3-%4-"));
end
function ids.parse(text)
	local hex = text:gsub("-", "");
	if #hex ~= 32 or hex:find("%X") then return nil; end
	return (hex:gsub("..", function (pair) return string.char(tonumber(pair, 16)); end));
end

return ids;
