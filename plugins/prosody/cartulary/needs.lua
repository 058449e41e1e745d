-- What the plugin needs of the server, asked feature by feature: no version number is compared.
-- Written so that every Lua that Prosody ever ran on can read it.

local needs = {};

local features = {
	{ "util.async", "waiter", "runner", "ready" }, { "util.filters", "add_filter", "add_filter_hook", "remove_filter_hook" },
	{ "util.time", "now", "monotonic" }, { "util.timer", "add_task" }, { "util.jid", "prep", "bare", "host", "split", "resource" },
	{ "util.id", "short" }, { "util.random", "bytes" }, { "util.uuid", "generate" }, { "util.stanza", "clone", "message", "stanza" },
	{ "util.xml", "parse" }, { "util.encodings", "stringprep" }, { "core.configmanager", "get" }, { "util.logger", "init" }, { "net.server", "wrapclient" },
	{ "core.moduleapi", "wrap_event", "hook_object_event", "unhook_object_event", "add_timer", "shared" },
	{ "core.modulemanager", "load", "is_loaded" },
};

local function lacking()
	if not string.pack or not table.move then return "Lua 5.3 or newer, and this is "..tostring(_VERSION); end
	if not prosody.core_process_stanza or not prosody.core_post_stanza then return "the stanza router's functions"; end
	if not prosody.events.wrappers then return "wrappers of events"; end
	for _, feature in ipairs(features) do
		local ok, library = pcall(require, feature[1]);
		if not ok or type(library) ~= "table" then return feature[1]; end
		for i = 2, #feature do
			if not library[feature[i]] then return feature[1].."."..feature[i]; end
		end
	end
	if not pcall(require, "socket.unix") then return "a LuaSocket with Unix sockets (socket.unix), for the link to the sidecar"; end
	return nil;
end

-- Nil, or what is lacking here, for the operator to read.
function needs.lacking()
	local what = lacking();
	return what and "Prosody "..tostring(prosody.version).." lacks what the plugin needs: "..what..". It works with 0.12 and 13.0";
end

return needs;
