-- Makes Prosody find and load the plugin, without a word in the user's configuration. Run by
-- prosody.cfg.lua whenever the configuration is read, by prosodyctl too, so it may run many times.
--
-- Invariant: a server that cannot load the gate exits before any of its ports is open.
-- It does not arm hosts: mod_cartulary does.

local folder = debug.getinfo(1, "S").source:match("^@(.*)/[^/]+$") or ".";
local server_config = os.getenv("CARTULARY_SERVER_CONFIG") or "/etc/prosody/prosody.cfg.lua";

-- Prosody takes the folder of the file it was started with for the base of relative paths
-- (certificates, for instance). For the user that is the folder of their own file.
-- Paths inside the user's file (Include, FileContents) resolve against it already.
local config_folder = server_config:match("^(.+)/[^/]*$") or ".";
prosody.paths.config = config_folder;
CFG_CONFIGDIR = config_folder; -- luacheck: ignore 111

if package.loaded["cartulary.loading"] then return; end
package.loaded["cartulary.loading"] = true;

CFG_PLUGINDIR = folder..package.config:sub(3, 3)..(CFG_PLUGINDIR or "plugins"); -- luacheck: ignore 111 113
prosody.paths.plugins = CFG_PLUGINDIR; -- luacheck: ignore 113
package.path = package.path..";"..folder.."/?.lua";

local function give_up(reason)
	local text = "Not starting: messages could not be recorded, since Cartulary's plugin in "..folder.." failed to load: "..tostring(reason);
	prosody.log("error", "%s", text);
	io.stderr:write(text, "\n");
	os.exit(1);
end

-- Before hostmanager (priority 0) activates the hosts, whose modules open the ports.
-- prosodyctl never fires this event.
prosody.events.add_handler("server-starting", function ()
	local ok, loaded, reason = pcall(function ()
		local lacking = require "cartulary.needs".lacking();
		if lacking then return nil, lacking; end
		return require "core.modulemanager".load("*", "cartulary");
	end);
	if not ok then give_up(loaded); end
	if not loaded then give_up(reason); end
end, 1000);
