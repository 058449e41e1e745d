-- Frames and fields of the event link (docs/event-link.md), and nothing else: no socket, no server.
--
-- Encoders return strings. Decoders raise an error that says what is wrong with the frame; callers
-- use pcall, since whatever comes from the socket may be garbage.

local pack, unpack, sub, concat = string.pack, string.unpack, string.sub, table.concat;

local wire = {};

wire.HELLO, wire.EVENT, wire.OUTCOME, wire.NOTICE, wire.SNAPSHOT_END, wire.COUNT = 0x01, 0x02, 0x03, 0x04, 0x05, 0x06;
wire.WELCOME, wire.VERDICT, wire.SETTINGS = 0x81, 0x82, 0x83;

-- Actions of a verdict.
wire.DELIVER, wire.REPLACE, wire.DROP, wire.BOUNCE = 0, 1, 2, 3;

-- What a frame's length counts besides its fields, and the most it may say.
local HEADER, MAX_LENGTH = 9, 16777216;

function wire.frame(kind, id, body)
	return pack(">I4Bi8", HEADER + #body, kind, id)..body;
end

-- Whether these fields fit into one frame.
function wire.fits(body)
	return #body <= MAX_LENGTH - HEADER;
end

-- Text, bytes, and nested fields look alike on the wire.
function wire.text(tag, value) return pack(">I2s4", tag, value); end
function wire.u8(tag, value) return pack(">I2I4B", tag, 1, value); end
function wire.u16(tag, value) return pack(">I2I4I2", tag, 2, value); end
function wire.u32(tag, value) return pack(">I2I4I4", tag, 4, value); end
function wire.u64(tag, value) return pack(">I2I4i8", tag, 8, value); end
wire.time = wire.u64;

-- Iterates over tag and value of each field.
function wire.fields(body)
	local pos, length = 1, #body;
	return function ()
		if pos > length then return nil; end
		if length - pos < 5 then error("a field's head is cut off", 0); end
		local tag, size = unpack(">I2I4", body, pos);
		local first = pos + 6;
		pos = first + size;
		if pos > length + 1 then error("field "..tag.." is longer than its frame", 0); end
		return tag, sub(body, first, pos - 1);
	end
end

local function number(format, tag, value)
	if #value ~= string.packsize(format) then error("field "..tag.." has "..#value.." bytes", 0); end
	return (unpack(format, value));
end

local function action(tag, value)
	local code = number(">B", tag, value);
	if code > wire.BOUNCE then error("action "..code.." is unknown", 0); end
	return code;
end

-- An exception: { recipient, action, replacement, error_type, condition, text }.
local function exception(body)
	local x = {};
	for tag, value in wire.fields(body) do
		if tag == 1 then x.recipient = value;
		elseif tag == 2 then x.action = action(tag, value);
		elseif tag == 3 then x.replacement = value;
		elseif tag == 4 then x.error_type = value;
		elseif tag == 5 then x.condition = value;
		elseif tag == 6 then x.text = value;
		end
	end
	if not x.recipient then error("an exception names no recipient", 0); end
	if not x.action then error("an exception has no action", 0); end
	if x.action == wire.REPLACE and not x.replacement then error("an exception lacks its replacement", 0); end
	return x;
end

-- A verdict: { action, replacement, error_type, condition, text, exceptions, event_id, outcome_wanted, resource, named_only }.
-- `exceptions` is nil or a table by JID.
function wire.verdict(body)
	local v = {};
	for tag, value in wire.fields(body) do
		if tag == 1 then v.action = action(tag, value);
		elseif tag == 2 then v.replacement = value;
		elseif tag == 3 then v.error_type = value;
		elseif tag == 4 then v.condition = value;
		elseif tag == 5 then v.text = value;
		elseif tag == 6 then
			local x = exception(value);
			v.exceptions = v.exceptions or {};
			v.exceptions[x.recipient] = x;
		elseif tag == 7 then
			if #value ~= 16 then error("the event id has "..#value.." bytes", 0); end
			v.event_id = value;
		elseif tag == 8 then v.outcome_wanted = number(">B", tag, value) == 1;
		elseif tag == 9 then v.resource = value;
		elseif tag == 10 then v.named_only = number(">B", tag, value) == 1;
		end
	end
	if not v.action then error("a verdict has no action", 0); end
	if v.action == wire.REPLACE and not v.replacement then error("a verdict lacks its replacement", 0); end
	return v;
end

-- What "unanswered" says: whether the stanza is delivered.
local function delivers(tag, value)
	local code = number(">B", tag, value);
	if code > 1 then error("unanswered "..code.." is unknown", 0); end
	return code == 1;
end

local function ask_about(body)
	local subject, deliver;
	for tag, value in wire.fields(body) do
		if tag == 1 then subject = value;
		elseif tag == 2 then deliver = delivers(tag, value);
		end
	end
	if not subject or deliver == nil then error("what is asked about is incomplete", 0); end
	return subject, { deliver = deliver };
end

-- Settings: { deliver_unanswered, answer_timeout (seconds), max_waiting, generation, ask_about }. `ask_about` is nil or a table by
-- subject of { deliver }: whether it is delivered unanswered.
function wire.settings(body)
	local s = {};
	for tag, value in wire.fields(body) do
		if tag == 1 then
			s.deliver_unanswered = delivers(tag, value);
		elseif tag == 2 then s.answer_timeout = number(">I4", tag, value) / 1000;
		elseif tag == 3 then s.max_waiting = number(">I4", tag, value);
		elseif tag == 4 then s.generation = number(">i8", tag, value);
		elseif tag == 5 then
			local subject, unanswered = ask_about(value);
			s.ask_about = s.ask_about or {};
			s.ask_about[subject] = unanswered;
		end
	end
	if s.deliver_unanswered == nil or not s.answer_timeout or not s.max_waiting then
		error("settings are incomplete", 0);
	end
	return s;
end

-- A welcome: { protocol, refused, version }.
function wire.welcome(body)
	local w = {};
	for tag, value in wire.fields(body) do
		if tag == 1 then w.protocol = number(">I2", tag, value);
		elseif tag == 2 then w.refused = value;
		elseif tag == 3 then w.version = value;
		end
	end
	return w;
end

-- Cuts a stream into frames. Returns a function to feed with data and with a callback (kind, id, body),
-- which ends the reading by returning false. Returns true, or nil and why the stream cannot be read on.
-- Pieces of a long frame are kept apart until it is whole, so that cost stays linear in its length.
function wire.reader()
	local pieces, have, need = {}, 0, 4;
	return function (data, on_frame)
		pieces[#pieces + 1] = data;
		have = have + #data;
		if have < need then return true; end
		local buffer, pos = #pieces == 1 and data or concat(pieces), 1;
		while true do
			local left = #buffer - pos + 1;
			if left < 4 then need = 4; break; end
			local length = unpack(">I4", buffer, pos);
			if length < HEADER or length > MAX_LENGTH then return nil, "a frame of "..length.." bytes"; end
			if left < 4 + length then need = 4 + length; break; end
			local kind, id = unpack(">Bi8", buffer, pos + 4);
			local body = sub(buffer, pos + 4 + HEADER, pos + 3 + length);
			pos = pos + 4 + length;
			if on_frame(kind, id, body) == false then return true; end
		end
		local rest = sub(buffer, pos);
		pieces, have = { rest }, #rest;
		return true;
	end
end

return wire;
