"""What people say with a client library that is not ours, as JSON for the oracle.

Standard input: {"servers": {DOMAIN: [HOST, PORT]}, "domain": …, "partner": …, "password": …}. Accounts: anna, ben, cleo at
`domain`, pia at `partner`, which federates with it. Standard output: what was said, heard, refused and corrected; see
`tests/tests/slixmpp.rs`. Every message is waited for; one that does not come ends this with an error that says so.
"""

import asyncio
import json
import sys
import uuid

from slixmpp import ClientXMPP, JID
from slixmpp.xmlstream.handler import Callback
from slixmpp.xmlstream.matcher import MatchXPath

DEADLINE = 60
CARBONS = "{urn:xmpp:carbons:2}"


class Person(ClientXMPP):
    """One session; everything it is given is kept."""

    def __init__(self, world, who, *, resumable=False, carbons=False):
        self.world = world
        self.full = who
        self.heard = []
        self.refused = {}
        self.copies = []
        self.news = asyncio.Event()
        super().__init__(who, world["password"])
        self.enable_direct_tls = self.enable_starttls = False
        self.enable_plaintext = True
        self.plugin["feature_mechanisms"].unencrypted_plain = True
        for plugin in ["xep_0030", "xep_0045", "xep_0199", "xep_0308"]:
            self.register_plugin(plugin)
        if carbons:
            self.register_plugin("xep_0280")
        if resumable:
            self.register_plugin("xep_0198")
        self.register_handler(Callback("everything", MatchXPath("{jabber:client}message"), self.take))

    def take(self, message):
        if message["type"] == "error":
            self.refused[message["id"]] = message["error"]["condition"]
        elif any(child.tag.startswith(CARBONS) for child in message.xml):
            self.copies.append(message.xml.findtext(".//{jabber:client}body"))
        elif message.xml.find("{jabber:client}body") is not None:
            heard = {"id": message["id"], "from": str(message["from"]), "text": message["body"]}
            self.heard.append(heard)
        self.news.set()

    async def arrive(self):
        ready = asyncio.get_running_loop().create_future()
        self.add_event_handler("session_start", lambda _: ready.done() or ready.set_result(None))
        host, port = self.world["servers"][JID(self.full).domain]
        self.connect(host, port)
        await within(ready, f"{self.full} logs in")
        self.send_presence()
        await self.settle()
        return self

    async def settle(self):
        """Streams keep their order: what has not come before the answer does not come."""
        await self.plugin["xep_0199"].send_ping(JID(self.full).domain, timeout=DEADLINE)

    async def hears(self, key):
        await self.until(lambda: any(message["id"] == key for message in self.heard), f"{self.full} hears {key}")

    async def until(self, holds, what):
        async def wait():
            while not holds():
                self.news.clear()
                await self.news.wait()

        await within(wait(), what)


async def within(awaitable, what):
    try:
        return await asyncio.wait_for(awaitable, DEADLINE)
    except asyncio.TimeoutError:
        raise RuntimeError(f"did not happen within {DEADLINE} s: {what}") from None


class Transcript:
    def __init__(self):
        self.said = []
        self.people = []
        self.corrections = {}

    async def person(self, *args, **options):
        person = await Person(*args, **options).arrive()
        self.people.append(person)
        return person

    def say(self, person, kind, to, text, change=lambda message: None):
        message = person.make_message(mto=to, mbody=text, mtype="groupchat" if kind == "room" else "chat")
        message["id"] = key = uuid.uuid4().hex
        change(message)
        self.said.append({"id": key, "kind": kind, "from": person.full, "to": to, "text": text})
        message.send()
        return key

    def as_json(self):
        received, refused = {}, {}
        for person in self.people:
            received.setdefault(person.full, []).extend(person.heard)
            refused.update(person.refused)
        copies = {person.full: person.copies for person in self.people if person.copies}
        return {
            "transcript": {"said": self.said, "received": received, "refused": refused},
            "corrections": self.corrections,
            "copies": copies,
        }


async def one_to_one(t, anna, ben):
    for text in ["hello", "שלום 👩🏽‍💻", "a < b && c > 'd' ]]>", "cafe\u0301\n\ttab"]:
        for speaker, listener in [(anna, ben), (ben, anna)]:
            await listener.hears(t.say(speaker, "one-to-one", listener.boundjid.bare, text))


async def room(t, world, people):
    where = f"office@rooms.{world['domain']}"
    for person in people:
        nick = person.boundjid.user.title()
        await person.plugin["xep_0045"].join_muc_wait(JID(where), nick, maxstanzas=0, timeout=DEADLINE)
        if person is people[0]:
            form = await person.plugin["xep_0045"].get_room_config(where)
            form["type"] = "submit"
            await person.plugin["xep_0045"].set_room_config(where, form)
    for person in people:
        key = t.say(person, "room", where, f"{person.boundjid.user} to everybody")
        for listener in people:
            await listener.hears(key)
    for speaker, listener in zip(people, people[1:]):
        nick = listener.boundjid.user.title()
        await listener.hears(t.say(speaker, "private", f"{where}/{nick}", "between us"))


async def offline(t, world, anna):
    keys = [t.say(anna, "offline", f"cleo@{world['domain']}", f"for later {n}") for n in range(3)]
    await anna.settle()
    cleo = await t.person(world, f"cleo@{world['domain']}/tablet")
    for key in keys:
        await cleo.hears(key)
    return cleo


async def carbons(t, world, anna, ben):
    phone = await t.person(world, f"ben@{world['domain']}/phone", carbons=True)
    await phone.plugin["xep_0280"].enable()
    await ben.hears(t.say(anna, "one-to-one", ben.full, "to the desk alone"))
    await phone.until(lambda: phone.copies, "the copy of what came")
    await anna.hears(t.say(ben, "one-to-one", anna.full, "from the desk"))
    await phone.until(lambda: len(phone.copies) > 1, "the copy of what was sent")
    await phone.plugin["xep_0280"].disable()
    phone.send_presence(ptype="unavailable")
    await phone.settle()


async def correction(t, anna, ben):
    wrong = t.say(anna, "one-to-one", ben.full, "at noun")
    await ben.hears(wrong)

    def replace(message):
        message["replace"]["id"] = wrong

    right = t.say(anna, "one-to-one", ben.full, "at noon", replace)
    await ben.hears(right)
    t.corrections[right] = wrong


async def errors(t, world, anna):
    for to in [f"nobody@{world['domain']}", f"nowhere@rooms.{world['domain']}", f"nobody@{world['partner']}"]:
        key = t.say(anna, "one-to-one", to, "is anybody there")
        await anna.until(lambda key=key: key in anna.refused, f"the error for {to}")


async def resumption(t, world, anna, ben):
    """Ben's network goes, three messages wait for him, and three of his own are under way."""
    gone, back = asyncio.Event(), asyncio.Event()
    ben.add_event_handler("disconnected", lambda _: gone.set())
    ben.add_event_handler("session_resumed", lambda _: back.set())
    own = [t.say(ben, "one-to-one", anna.full, f"just before {n}") for n in range(3)]
    await within(ben.waiting_queue.join(), "they are written")
    ben.transport.abort()
    await within(gone.wait(), "the connection is gone")
    keys = [t.say(anna, "one-to-one", ben.full, f"while away {n}") for n in range(3)]
    await anna.settle()
    host, port = world["servers"][world["domain"]]
    ben.connect(host, port)
    await within(back.wait(), "the stream is taken up again")
    for key in keys:
        await ben.hears(key)
    for key in own:
        await anna.hears(key)
    await anna.hears(t.say(ben, "one-to-one", anna.full, "here again"))


async def federation(t, anna, pia):
    for n in range(5):
        for speaker, listener in [(anna, pia), (pia, anna)]:
            await listener.hears(t.say(speaker, "one-to-one", listener.boundjid.bare, f"across {n}"))


async def main():
    world = json.load(sys.stdin)
    t = Transcript()
    anna = await t.person(world, f"anna@{world['domain']}/desk")
    ben = await t.person(world, f"ben@{world['domain']}/desk", resumable=True)
    pia = await t.person(world, f"pia@{world['partner']}/desk")
    await one_to_one(t, anna, ben)
    await federation(t, anna, pia)
    await correction(t, anna, ben)
    await errors(t, world, anna)
    await carbons(t, world, anna, ben)
    cleo = await offline(t, world, anna)
    await room(t, world, [anna, ben, cleo, pia])
    await resumption(t, world, anna, ben)
    for person in t.people:
        await person.settle()
    json.dump(t.as_json(), sys.stdout)


asyncio.run(main())
