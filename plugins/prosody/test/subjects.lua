-- Laws of cartulary/subjects.lua, on a server made of tables. Run: lua5.4 test/subjects.lua (from plugins/prosody).

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
local function account(...)
	local sessions = {};
	for _, each in ipairs { ... } do sessions[each.resource] = each; end
	return { sessions = sessions };
end
local desk, phone, new = session("desk", 1), session("phone", 5), session("new");
new.roster = {
	[false] = { pending = {} }, ["c@x"] = { subscription = "both" }, ["d@x"] = { subscription = "from" }, ["e@x"] = { subscription = "to" },
	["f@x"] = { subscription = "from" }, ["g@y"] = { subscription = "both" },
};
local bee = { bare_jid = "b@x", nick = "r@rooms.x/bee", each_session = function () return pairs { ["b@x/desk"] = 1 }; end };
local cee = { bare_jid = "c@x", nick = "r@rooms.x/cee", each_session = function () return pairs { ["c@x/tablet"] = 1 }; end };
local room = {
	each_occupant = function () return ipairs { bee, cee }; end,
	get_occupant_by_nick = function (_, nick) return nick == cee.nick and cee or nil; end,
};
prosody = { -- luacheck: ignore 111
	hosts = {
		["x"] = { type = "local", modules = {} },
		["rooms.x"] = { type = "component", modules = { muc = { get_room_from_jid = function (jid) return jid == "r@rooms.x" and room; end } } },
		["ext.x"] = { type = "component", modules = { component = {} } },
	},
	bare_sessions = {
		["b@x"] = account(desk, phone, new), ["c@x"] = account(session("tablet", 0), session("mute")), ["d@x"] = account(session("silent")),
		["e@x"] = account(session("pc", 0)),
	},
	full_sessions = { ["c@x/tablet"] = {}, ["c@x/mute"] = {} },
};

local recipients = require "cartulary.recipients";
local subjects = require "cartulary.subjects";

local function about(name, to, kind, priority, sender)
	local stanza = { name = name, attr = { to = to, type = kind }, get_child_text = function () return priority; end };
	local target, bare, resource = recipients.place(to, "b@x");
	local subject = subjects.of(stanza, target);
	local list, reached, found = subjects.recipients(subject, stanza, sender or new, target, bare, resource);
	local texts = {};
	for i, r in ipairs(list) do texts[i] = r.bare.."["..table.concat(r, ",").."]"; end
	return subject.." "..reached.." "..table.concat(texts, " ")..(found and " in a room" or "");
end

local failed = 0;
local function law(name, expected, ...)
	local ok, got = pcall(about, ...);
	local holds = ok and got == expected;
	print((holds and "ok   " or "FAIL ")..name..(holds and "" or ": "..tostring(got)));
	if not holds then failed = failed + 1; end
end

law("a broadcast reaches the own account as it will be, then local subscribers with sessions",
	"presence 1 b@x[phone,desk,new] c@x[tablet]", "presence");
law("the new priority counts", "presence 1 b@x[new,phone,desk] c@x[tablet]", "presence", nil, nil, "7");
law("a priority that is none is zero", "presence 1 b@x[phone,desk,new] c@x[tablet]", "presence", nil, nil, "high");
law("who was available is listed once, with the new priority", "presence 1 b@x[phone,desk]", "presence", nil, nil, "-1", desk);
law("who goes is not listed as staying", "presence 1 b@x[phone]", "presence", nil, "unavailable", nil, desk);
law("directed presence reaches that session", "presence 1 c@x[tablet]", "presence", "c@x/tablet");
law("directed presence to an account reaches available sessions", "presence 1 c@x[tablet]", "presence", "c@x");
law("directed presence to a session that is gone reaches none", "presence 1 c@x[]", "presence", "c@x/gone");
law("a probe reaches the account", "presence 1 c@x[]", "presence", "c@x", "probe");
law("presence to another server names the addressee", "presence 4 d@y[]", "presence", "d@y/z");
law("presence to the server itself is presence", "presence 5 x[]", "presence", "x");
law("a subscription reaches available sessions, whatever the resource", "subscription 1 c@x[tablet]", "presence", "c@x/gone", "subscribe");
law("a subscription of a room is one", "subscription 2 r@rooms.x[] in a room", "presence", "r@rooms.x", "unsubscribed");
law("an iq reaches that session", "iq 1 c@x[mute]", "iq", "c@x/mute", "get");
law("an iq to an account is for the account", "iq 1 c@x[]", "iq", "c@x", "get");
law("an iq to another server names the addressee", "iq 4 d@y[]", "iq", "d@y", "set");
law("an iq to a component names the addressee", "iq 6 q@ext.x[]", "iq", "q@ext.x", "result");
law("an iq to the own account has no recipients", "service-iq 1 ", "iq", nil, "get");
law("an iq to the server has none", "service-iq 5 ", "iq", "x", "get");
law("an iq to a service of rooms has none", "service-iq 5 ", "iq", "rooms.x", "get");
law("an iq to a room concerns everybody there", "room-iq 2 b@x[desk] c@x[tablet] in a room", "iq", "r@rooms.x", "set");
law("an iq to an occupant concerns that one", "room-iq 3 c@x[tablet] in a room", "iq", "r@rooms.x/cee", "get");
law("presence in a room concerns everybody, whatever nickname it is for", "room-presence 2 b@x[desk] c@x[tablet] in a room", "presence", "r@rooms.x/cee");
law("a probe of an occupant concerns that one", "room-presence 3 c@x[tablet] in a room", "presence", "r@rooms.x/cee", "probe");
law("in a room that is not there is nobody", "room-presence 2 ", "presence", "n@rooms.x/cee");
os.exit(failed == 0 and 0 or 1);
