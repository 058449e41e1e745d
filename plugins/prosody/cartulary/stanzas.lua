-- Replacing a stanza and answering it with an error.

local st = require "util.stanza";
local xml_parse = require "util.xml".parse;

local xmlns_client = "jabber:client";
local xmlns_stanzas = "urn:ietf:params:xml:ns:xmpp-stanzas";

local stanzas = {};

-- RFC 6120, 8.3.2 and 8.3.3.
local error_types = { auth = true, cancel = true, continue = true, modify = true, wait = true };
local conditions = {};
for name in ([[bad-request conflict feature-not-implemented forbidden gone internal-server-error item-not-found
	jid-malformed not-acceptable not-allowed not-authorized policy-violation recipient-unavailable redirect
	registration-required remote-server-not-found remote-server-timeout resource-constraint service-unavailable
	subscription-required undefined-condition unexpected-request]]):gmatch("%S+") do
	conditions[name] = true;
end

-- The server's own stanzas carry no namespace where they are in jabber:client; inside elements of
-- other namespaces it stays, since there it says something.
local function without_client_namespace(element)
	if element.attr.xmlns ~= xmlns_client then return; end
	element.attr.xmlns = nil;
	for _, child in ipairs(element.tags) do without_client_namespace(child); end
end

-- The stanza of this name in this XML, a message unless another is named. Raises an error where there is none.
function stanzas.parse(xml, name)
	local ok, parsed, problem = pcall(xml_parse, xml);
	if not ok or not parsed then error("the replacement does not parse: "..tostring(ok and problem or parsed), 0); end
	without_client_namespace(parsed);
	name = name or "message";
	if parsed.name ~= name or parsed.attr.xmlns then error("the replacement is no "..name, 0); end
	return parsed;
end

local kept = { from = true, to = true, id = true, type = true, xmlns = true };

-- Gives `stanza` the content of `new`. Addresses, id and type stay: a message of another type would
-- go another way than the one that was decided on.
function stanzas.replace(stanza, new)
	for name in pairs(stanza.attr) do
		if not kept[name] then stanza.attr[name] = nil; end
	end
	for name, value in pairs(new.attr) do
		if not kept[name] then stanza.attr[name] = value; end
	end
	local content = st.clone(new);
	for i = 1, math.max(#stanza, #content) do stanza[i] = content[i]; end
	for i = 1, math.max(#stanza.tags, #content.tags) do stanza.tags[i] = content.tags[i]; end
	return stanza;
end

-- An error that the peer may send: unknown words become the nearest known ones.
function stanzas.defined_error(error_type, condition)
	return error_types[error_type] and error_type or "cancel", conditions[condition] and condition or "undefined-condition";
end

-- An error, of messages unless another stanza's name is given. Put together by hand: while a room fans out, the original's addresses
-- are not its own.
function stanzas.error(from, to, id, error_type, condition, reason, name)
	error_type, condition = stanzas.defined_error(error_type, condition);
	local reply = st.stanza(name or "message", { type = "error", from = from, to = to, id = id })
		:tag("error", { type = error_type }):tag(condition, { xmlns = xmlns_stanzas }):up();
	if reason then reply:tag("text", { xmlns = xmlns_stanzas }):text(reason):up(); end
	return reply:reset();
end

return stanzas;
