-- The plugin's root: arms every host as it is activated, owns the link, says hello.
-- Loaded globally by init.lua before any host is activated. State that must outlive a reload of this
-- module lives in the libraries (cartulary/*.lua), which are loaded once.
--
-- Invariant: a host that is not armed, for whatever reason, takes no messages.

module:set_global();

local link = require "cartulary.link";
local gate = require "cartulary.gate"; -- loaded here so that the server does not start without it
local fanout = require "cartulary.fanout";
local notices = require "cartulary.notices";
local intake = require "cartulary.intake";
local counts = require "cartulary.counts";
local later = require "cartulary.later";
local wire = require "cartulary.wire";
local filters = require "util.filters";
local modulemanager = require "core.modulemanager";

local hosts = prosody.hosts;

local state = module:shared("state");
state.instance = state.instance or require "util.uuid".generate();
state.problems = state.problems or {};
local problems = state.problems; -- why a host is not armed, by host
local leaving = {}; -- hosts on their way out, whose modules are being unloaded

local ingress_events = {
	"pre-message/bare", "pre-message/full", "pre-message/host", "message/bare", "message/full", "message/host", "route/remote",
};

local function shut(host, problem)
	problems[host] = problem;
	module:log("error", "%s takes no messages, since they would not be recorded: %s", host, problem);
	for _, event in ipairs(ingress_events) do module:hook_object_event(hosts[host].events, event, gate.shut, 1000000); end
end

local function open(host)
	problems[host] = nil;
	for _, event in ipairs(ingress_events) do module:unhook_object_event(hosts[host].events, event, gate.shut); end
end

local function load_on(host)
	if modulemanager.is_loaded(host, "cartulary_host") then return; end
	local ok, loaded, reason = pcall(modulemanager.load, host, "cartulary_host");
	if not ok or not loaded then shut(host, tostring(ok and reason or loaded):match("^[^\n]*")); end
end

local function arm(host)
	local events = hosts[host].events;
	local function changed(event)
		if event.module ~= "cartulary_host" then return; end
		open(host);
		link.announce();
	end
	module:hook_object_event(events, "module-loaded", changed);
	module:hook_object_event(events, "module-reloaded", changed);
	module:hook_object_event(events, "module-unloaded", function (event)
		if event.module ~= "cartulary_host" or leaving[host] then return; end
		shut(host, "mod_cartulary_host was unloaded");
		link.announce();
	end);
	load_on(host);
end

local function greet(counts)
	notices.hello(state.instance, counts, problems);
	notices.snapshot();
end

-- Every stream from its beginning: a resumed session takes over the filters of the new one.
local function filter_session(session)
	filters.add_filter(session, "stanzas/in", intake.filter, intake.FILTER_PRIORITY);
	if tostring(session.type):find("^c2s") then
		filters.add_filter(session, "stanzas/out", fanout.filter, fanout.FILTER_PRIORITY);
	end
end
filters.add_filter_hook(filter_session);

-- Counts are told when they changed, at most every ten seconds, and at the end.
local COUNT_EVERY = 10; -- seconds
local function tell_count(body) return link.tell(wire.COUNT, body); end
local function report(again, stopping)
	if not link.ready then return; end
	local ok, problem = pcall(counts.report, tell_count, again, stopping);
	if not ok then notices.hook_failed("counts", problem); end
end
module:add_timer(COUNT_EVERY, function ()
	report(false);
	return COUNT_EVERY;
end);
link.on_ready("counts", function () report(true); end);
module:hook_global("server-stopped", function ()
	report(false, true);
	link.flush();
end, -1000);

module:hook_global("s2s-destroyed", function (event)
	local ok, problem = pcall(later.ended, event.session);
	if not ok then notices.hook_failed("s2s-destroyed", problem); end
end);

function module.unload()
	filters.remove_filter_hook(filter_session);
end

-- After the host's own modules (priority 0), so that hello can say what the host is. Nothing is let in
-- between: the server loads a host's modules in one go.
module:hook_global("host-activated", function (host)
	arm(host);
	link.announce();
end, -1000);

module:hook_global("host-deactivating", function (event)
	leaving[event.host] = true;
end, 1000);

module:hook_global("host-deactivated", function (host)
	problems[host], leaving[host] = nil, nil;
	link.announce();
end, -1000);

if prosody.start_time then
	for host in pairs(hosts) do arm(host); end
	link.start(greet);
else
	module:hook_global("server-started", function () link.start(greet); end, 1000);
end
