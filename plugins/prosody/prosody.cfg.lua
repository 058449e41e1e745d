-- What PROSODY_CONFIG names in place of the user's own file. It loads the recording plugin and then
-- reads the user's file as it stands. Nothing here is a setting of the server.
-- CARTULARY_SERVER_CONFIG says where the user's file is.

RunScript "init.lua"
Include(ENV_CARTULARY_SERVER_CONFIG or "/etc/prosody/prosody.cfg.lua")
