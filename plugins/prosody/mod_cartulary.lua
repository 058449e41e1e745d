-- The plugin's root: arms every host as it is activated, owns the link, says hello.
-- Loaded globally by init.lua before any host is activated. State that must outlive a reload of this
-- module lives in the libraries (cartulary/*.lua), which are loaded once.

module:set_global();

local link = require "cartulary.link";
local fanout = require "cartulary.fanout";
local notices = require "cartulary.notices";
local filters = require "util.filters";
local modulemanager = require "core.modulemanager";

-- Without it there is no link: better not to start.
assert(pcall(require, "socket.unix"), "LuaSocket was built without Unix sockets (socket.unix), which the link to the sidecar needs");

local state = module:shared("state");
state.instance = state.instance or require "util.uuid".generate();
state.problems = state.problems or {};
local problems = state.problems; -- why a host is not armed, by host

local function arm(host)
	if modulemanager.is_loaded(host, "cartulary_host") then return; end
	local ok, loaded, reason = pcall(modulemanager.load, host, "cartulary_host");
	if ok and loaded then
		problems[host] = nil;
	else
		problems[host] = tostring(ok and reason or loaded):match("^[^\n]*");
		module:log("error", "Messages of %s are not recorded: %s", host, problems[host]);
	end
end

local function greet(counts)
	notices.hello(state.instance, counts, problems);
	notices.snapshot();
end

-- Every client's session from its beginning: a resumed session takes over the filters of the new one.
local function filter_session(session)
	if tostring(session.type):find("^c2s") then
		filters.add_filter(session, "stanzas/out", fanout.filter, fanout.FILTER_PRIORITY);
	end
end
filters.add_filter_hook(filter_session);

function module.unload()
	filters.remove_filter_hook(filter_session);
end

-- After the host's own modules (priority 0), so that hello can say what the host is. Nothing is let in
-- between: the server loads a host's modules in one go.
module:hook_global("host-activated", function (host)
	arm(host);
	link.announce();
end, -1000);

module:hook_global("host-deactivated", function (host)
	problems[host] = nil;
	link.announce();
end, -1000);

if prosody.start_time then
	for host in pairs(prosody.hosts) do arm(host); end
	link.start(greet);
else
	module:hook_global("server-started", function () link.start(greet); end, 1000);
end
