-- Laws of cartulary/recipients.lua, on a server made of tables. Run: lua5.4 test/recipients.lua (from plugins/prosody).

package.path = "./?.lua;"..package.path;

local function split(jid)
	local node, rest = jid:match("^([^@/]+)@(.*)$");
	local host, resource = (rest or jid):match("^([^/]+)/?(.*)$");
	return node, host, resource ~= "" and resource or nil;
end
package.preload["util.jid"] = function ()
	return { split = split, bare = function (jid) return (jid:match("^[^/]+")); end };
end

local function session(resource, priority)
	return { resource = resource, priority = priority, presence = priority and {} or nil };
end
local phone, laptop, mute = session("phone", 5), session("laptop", 5), session("mute", -1);
local occupant = { bare_jid = "b@x", nick = "r@rooms.x/bee", each_session = function () return pairs { ["b@x/phone"] = 1 }; end };
local room = {
	each_occupant = function () return pairs { [occupant.nick] = occupant }; end,
	get_occupant_by_nick = function (_, nick) return nick == occupant.nick and occupant or nil; end,
};
local user = { sessions = { phone = phone, laptop = laptop, mute = mute }, top_resources = { phone, laptop } };
prosody = { -- luacheck: ignore 111
	hosts = {
		["x"] = { type = "local", modules = {} },
		["rooms.x"] = { type = "component", modules = { muc = { get_room_from_jid = function (jid) return jid == "r@rooms.x" and room; end } } },
		["ext.x"] = { type = "component", modules = { component = {} } },
		["files.x"] = { type = "component", modules = {} },
	},
	bare_sessions = { ["b@x"] = user },
	full_sessions = { ["b@x/phone"] = phone, ["b@x/laptop"] = laptop, ["b@x/mute"] = mute },
};

local recipients = require "cartulary.recipients";

local function of(to, kind, child)
	local stanza = { attr = { to = to, type = kind }, get_child = function () return child; end };
	local target, list, _, bare, room_jid = recipients.of(stanza, "b@x");
	local texts = {};
	for i, r in ipairs(list) do
		table.sort(r);
		texts[i] = r.bare..(r.occupant and " "..r.occupant or "").."["..table.concat(r, ",").."]";
	end
	return target.." "..bare.." "..table.concat(texts, ";")..(room_jid and " in "..room_jid or "");
end

local invite = { get_child = function (_, name) return name == "invite" and { attr = { to = "d@y/z" } } or nil; end };

local failed = 0;
for _, case in ipairs {
	{ "a bare JID reaches the sessions of highest priority", "1 b@x b@x[laptop,phone]", "b@x", "chat" },
	{ "no addressee is the own account", "1 b@x b@x[laptop,phone]", nil, "chat" },
	{ "a full JID reaches that session", "1 b@x b@x[mute]", "b@x/mute", "chat" },
	{ "a full JID that is gone is as the bare one", "1 b@x b@x[laptop,phone]", "b@x/gone", "chat" },
	{ "a headline reaches all sessions of non-negative priority", "1 b@x b@x[laptop,phone]", "b@x", "headline" },
	{ "a headline to a full JID that is gone reaches nobody", "1 b@x b@x[]", "b@x/gone", "headline" },
	{ "an error to a bare JID reaches nobody", "1 b@x b@x[]", "b@x", "error" },
	{ "a user without sessions is named all the same", "1 c@x c@x[]", "c@x", "chat" },
	{ "a room reaches its occupants", "2 r@rooms.x b@x r@rooms.x/bee[phone] in r@rooms.x", "r@rooms.x", "groupchat" },
	{ "an invitation reaches whom it invites", "2 r@rooms.x d@y[] in r@rooms.x", "r@rooms.x", nil, invite },
	{ "a private message reaches one occupant", "3 r@rooms.x b@x r@rooms.x/bee[phone] in r@rooms.x", "r@rooms.x/bee", "chat" },
	{ "a private message to nobody has no recipient", "3 r@rooms.x  in r@rooms.x", "r@rooms.x/no", "chat" },
	{ "a room that does not exist has no occupants", "2 n@rooms.x  in n@rooms.x", "n@rooms.x", "groupchat" },
	{ "other servers are named", "4 d@y d@y[]", "d@y/z", "chat" },
	{ "the server itself is a service", "5 x x[]", "x", "chat" },
	{ "a room service is a service", "5 rooms.x rooms.x[]", "rooms.x", "chat" },
	{ "a built-in component is a service", "5 q@files.x q@files.x[]", "q@files.x", "chat" },
	{ "an external component is named", "6 q@ext.x q@ext.x[]", "q@ext.x/z", "chat" },
} do
	local name, expected, to, kind, child = table.unpack(case, 1, 5);
	local ok, got = pcall(of, to, kind, child);
	print((ok and got == expected and "ok   " or "FAIL ")..name..(ok and got == expected and "" or ": "..tostring(got)));
	if not ok or got ~= expected then failed = failed + 1; end
end
os.exit(failed == 0 and 0 or 1);
