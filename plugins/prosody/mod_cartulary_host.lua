-- Arms one host: puts the gate into its events, and tells what happens to its sessions and rooms.
-- Loaded on every host by mod_cartulary. `armed` names what was hooked, for hello; it is set last.

local gate = require "cartulary.gate";
local fanout = require "cartulary.fanout";
local intake = require "cartulary.intake";
local later = require "cartulary.later";
local notices = require "cartulary.notices";
local others = require "cartulary.others";
local rooms = require "cartulary.rooms";
local session_id = require "cartulary.event".session_id;

local host = module.host;
local users = module:get_host_type() == "local";
local component_module = module:get_option_string("component_module");

local hooks = {};

local function wrap(event, handler)
	module:wrap_event(event, handler);
	hooks[#hooks + 1] = event;
end

-- Notices may be lost with an error, messages may not.
local function watch(event, handler, priority)
	module:hook(event, function (data)
		local ok, problem = pcall(handler, data);
		if not ok then notices.hook_failed(event, problem); end
	end, priority);
	hooks[#hooks + 1] = event;
end

local arrive = (component_module == "component" and gate.to_component or gate.to_host)(host);
for _, kind in ipairs { "bare", "full", "host" } do
	if users then wrap("pre-message/"..kind, gate.from_client); end
	wrap("message/"..kind, arrive);
end
wrap("route/remote", gate.to_remote(host));
wrap("delivery/failure", later.failed);
watch("s2sout-established", function (event) later.established(event.session); end, 1000);

if users then
	wrap("pre-stanza", intake.before_clients);
	wrap("message/offline/handle", gate.to_offline(host));
	wrap("message/offline/broadcast", later.empty_store);
	wrap("pre-resource-bind", others.bind);

	-- Only here the mechanism is known; kept with the session for its notices.
	watch("authentication-success", function (event)
		local session, handler = event.session, event.session.sasl_handler;
		session.cartulary_mechanism = handler and handler.selected;
		if not session.username then return; end -- another server
		notices.tell("authenticated", {
			jid = session.username.."@"..host, address = session.ip, mechanism = session.cartulary_mechanism, session = session_id(session),
		});
	end);
	watch("user-registered", function (event)
		local session = event.session;
		notices.tell("registered", {
			jid = event.username.."@"..(event.host or host), address = event.ip or session and session.ip,
			session = session and session_id(session),
		});
	end);
	watch("authentication-failure", function (event)
		local session, handler = event.session, event.session.sasl_handler;
		local name = session.username or handler and handler.username;
		notices.tell("login-failed", {
			jid = name and name.."@"..host or host, address = session.ip, session = session_id(session),
			mechanism = handler and handler.selected,
			reason = event.condition and event.condition..(event.text and ": "..event.text or ""),
		});
	end);
	watch("resource-bind", function (event)
		notices.tell("session-up", notices.session(event.session));
	end);
	watch("resource-unbind", function (event)
		local details = notices.session(event.session);
		details.reason = event.error and tostring(event.error) or nil;
		notices.tell("session-down", details);
	end);
elseif component_module == "muc" then
	module:hook("muc-broadcast-message", gate.broadcast(host), 1000);
	hooks[#hooks + 1] = "muc-broadcast-message";
	module:hook("muc-add-history", fanout.history, 1000);
	hooks[#hooks + 1] = "muc-add-history";
	rooms.arm(watch, wrap);
	module:hook_global("config-reloaded", function ()
		local ok, problem = pcall(notices.tell, "services-reconfigured", { room = host });
		if not ok then notices.hook_failed("config-reloaded", problem); end
	end);
end

-- mod_cartulary reads it.
armed = hooks; -- luacheck: ignore 111
