-- What outlives a stream: a stand-in for the origin of messages whose stream has ended, and reading on after a pause.
--
-- Prosody empties sessions when they end. A message that was read before is handled all the same; what handlers ask
-- of its origin is then answered by the stand-in.

local session_id = require "cartulary.event".session_id;
local timer = require "util.timer";

local streams = {};

-- What handlers may ask of an origin; the rest of a stream dies with it.
local fields = {
	c2s = { "type", "username", "host", "resource", "full_jid", "ip", "secure", "role", "roster" },
	s2s = { "type", "hosts", "host", "from_host", "to_host", "direction", "incoming", "outgoing", "send", "ip", "secure" },
	component = { "type", "host", "component_validate_from", "ip" },
};
fields.s2sin, fields.s2sout = fields.s2s, fields.s2s;

local known = setmetatable({}, { __mode = "k" }); -- by origin, while it lives and after

-- Remembers what `origin` is, before anything waits.
function streams.remember(origin)
	if known[origin] then return; end
	local of = fields[origin.type];
	if not of then return; end
	local copy = { destroyed = true, id = origin.id, cartulary_id = origin.cartulary_id };
	if not copy.id then copy.cartulary_id = session_id(origin); end
	for _, name in ipairs(of) do copy[name] = origin[name]; end
	known[origin] = copy;
end

local function nowhere() return false; end

-- What stands for `origin`, which has ended.
function streams.stand_in(origin)
	local copy = known[origin];
	if not copy then return origin; end
	if getmetatable(copy) then return copy; end
	copy.cartulary_of = origin;
	copy.log = origin.log;
	copy.send = copy.send or nowhere;
	copy.close = nowhere;
	return setmetatable(copy, { __index = origin });
end

-- When Prosody reads on after a pause, 13.0 does not look for what LuaSocket had already taken from the kernel:
-- nobody would, until more is sent.
function streams.read_on(conn)
	if not conn or not conn.onreadable or not conn.conn or not conn.conn:dirty() then return; end
	timer.add_task(0, function ()
		if conn._wantread and conn.conn and conn.conn:dirty() then conn:onreadable(); end
	end);
end

return streams;
