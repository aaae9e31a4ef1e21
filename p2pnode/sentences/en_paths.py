"""English: bundles, relays, and why something is not here yet."""

PATHS: dict[str, str] = {
    # bundles
    "bundle.packing": "{done} of {total} entries",
    "bundle.reading": "reading",
    "bundle.written": "Written: {file} ({entries} entries, {size}). Whoever holds the space's secret can read it.",
    "bundle.taken": "New {new}, known {known}, refused {refused}.",
    "bundle.would": "Would be new {new}, known {known}, refused {refused}. Nothing was kept.",
    "bundle.refused": "refused: {count} entries that are not what their authors signed",
    "bundle.forked": "forked: {count} stretches that prove an author to have signed two different things",
    "bundle.unknown": "left out: {count} entries of authors who are not known to belong",
    "bundle.early": "left out: {count} entries that follow on others which are not here yet",
    "bundle.damaged": "damaged: {count} places; what is whole was taken. Ask for a new copy.",
    "bundle.cut": "the end of the bundle is missing; what came before it was taken. Ask for a new copy.",
    "bundle.foreign": "no space of this node can open this file: it is not a bundle, it is of another space, or it was "
    "sealed before you joined or after you left.",
    "bundle.no_file": "a bundle has to be an ordinary file: no pipe, no device.",
    "bundle.no_peer": "no bundle of this space has been imported yet: import theirs first, or leave out --for-peer.",
    "bundle.disk": "the file cannot be read or written ({reason}).",
    "bundle.unreadable": "the bundle cannot be opened: {reason}.",
    "bundle.unwritable": "the bundle cannot be written there: {reason}.",
    "bundle.exists": "there is a file of this name already; it was left as it is. Choose another name.",
    "bundle.part": "{file} is there, of an export that goes on or was cut off: wait for it, or remove that file.",
    # relays
    "relay.ready": "Hand this line to whoever may use the relay: p2pnode relay add. Ctrl-C stops.",
    "relay.quota": "--quota is a number of GiB above 0.",
    "relay.no_postgresql": "PostgreSQL needs the package psycopg: pip install 'p2pnode[postgresql]'.",
    "relay.added": "In use: {relay}",
    "relay.removed": "No more in use: {relay}. What lies there stays until its day comes.",
    "relay.none": "No relays yet. Add one with: p2pnode relay add HOST:PORT/KEY",
    "relay.unknown": "there is no such relay. See `p2pnode relay list`.",
    "relay.ambiguous": "several spaces use this relay: say which with --space.",
    "relay.heads": "MAILBOX|MEETING POINT|SEEN|TO APPEND|ADDRESS",
    "relay.new": "not tried yet",
    "relay.reading": "reading",
    "relay.appending": "appending",
    "relay.waiting": "up to date",
    "relay.unreachable": "unreachable",
    "relay.proxy-down": "proxy down",
    "relay.no-proxy": "needs a proxy",
    "relay.silent": "does not know its key",
    "relay.slow": "too slow",
    "relay.cut": "hung up",
    "relay.broke-rules": "broke the rules",
    "relay.too-small": "takes too short messages",
    "relay.store": "our disk failed",
    "meeting.waiting": "waiting",
    "refusal.full": "it is full",
    "refusal.topic-full": "our share there is full",
    "refusal.no-new-topics": "it is nearly full",
    "refusal.too-much": "we appended too much today",
    "refusal.failed": "its disk failed",
    "warning.restored": "restored from an old copy!",
    "warning.equivocates": "tells members different stories!",
    "warning.damaged": "holds damaged messages",
    "warning.refused": "a member put forged entries there",
    "invite.no_relay": "the space has no relay yet: p2pnode relay add HOST:PORT/KEY, or leave out --by-relay.",
    "invite.relay_failed": "a relay did not take the welcome ({reason}). See p2pnode relay list, then try again.",
    "join.no_relay": "the invitation names no relay: leave out --by-relay, or ask for one made with --by-relay.",
    "join.fetching": "Looking for the welcome at the relays of the invitation.",
    "join.welcomed": "The welcome was there. Reading the space.",
    "join.relay_unanswered": "A relay does not answer. Trying again.",
    "join.no_welcome": "No welcome lies at the relay: the invitation was made without --by-relay, or it has expired "
    "there. Trying again.",
    # status and sync explain
    "path.heads": "PATH|STATE|SEEN|WAITING|ADDRESS",
    "path.since": "{count} since {since}",
    "path.proxy": "proxy",
    "path.lan": "LAN",
    "path.peer": "peer",
    "path.relay": "relay",
    "path.in-use": "in use",
    "path.unused": "not used yet",
    "path.proxy-down": "down",
    "path.off": "off",
    "path.listen": "listening",
    "path.announce": "announcing",
    "explain.here": "The report is here.",
    "explain.unknown": "No report with this id is here. Nobody whom this node has met since it was filed has shown it.",
    "explain.alone": "No peer is connected.",
    "explain.never": "never",
    "explain.peers": "{equal} of {peers} connected peers hold all that this node holds.",
    "explain.relays": "It lies at {holding} of {relays} relays.",
    "explain.well": "Nothing stands in the way: what others have sent is here, and what was filed here has gone out.",
    "explain.pending": "{count} entries are here and not listed yet: that takes moments.",
    "explain.missing": "{count} texts are missing of which only the header is here. They are asked for from every peer "
    "that connects; a bundle from another member brings them too.",
    "explain.no_path": "No way leads out of this node: add a peer (p2pnode peer add HOST:PORT), a relay (p2pnode relay "
    "add HOST:PORT/KEY), or carry a bundle (p2pnode bundle export FILE).",
    "explain.nobody": "Nobody is connected and no relay is in use: somebody's node has to be on at the same time, or a "
    "relay has to keep things for you (p2pnode relay add HOST:PORT/KEY).",
    "explain.lan_off": "The LAN is off: nodes on this network are not found. To change that: p2pnode run --lan listen",
    "explain.lan_listen": "Nodes on this LAN are found when one of them announces itself: p2pnode sync, on either.",
    "explain.peer_down": "{address}: {why}. It is tried again by itself; p2pnode sync tries it now.",
    "explain.peer_unreachable": "{address} does not answer: is that node on, and is the address right? It is tried "
    "again by itself.",
    "explain.peer_proxy_down": "The proxy does not answer, so {address} is not tried: start the proxy. Nothing goes "
    "around it.",
    "explain.peer_no_proxy": "{address} is an onion service: start the node with --proxy, such as 127.0.0.1:9050.",
    "explain.relay_down": "The relay {address} cannot be used ({why}; last answer: {seen}). It is tried again by "
    "itself; another relay beside it helps: p2pnode relay add.",
    "explain.relay_unreachable": "The relay {address} does not answer (last answer: {seen}). It is tried again by "
    "itself; another relay beside it helps: p2pnode relay add.",
    "explain.relay_silent": "Somebody answers at {address} who does not hold the relay's key: the address is wrong, or "
    "somebody has taken its place. Ask for its line again.",
    "explain.relay_proxy_down": "The proxy does not answer, so the relay {address} is not tried: start the proxy. "
    "Nothing goes around it.",
    "explain.relay_no_proxy": "The relay {address} is an onion service: start the node with --proxy, such as "
    "127.0.0.1:9050.",
    "explain.relay_restored": "The relay {address} lost messages that it had acknowledged: it was restored from an old "
    "copy, or it lies. What this node holds was appended again.",
    "explain.relay_equivocates": "The relay {address} tells members different stories. It cannot forge anything, but "
    "it can keep things from you: use another one beside it.",
    "explain.relay_damaged": "The relay {address} holds messages that cannot be opened: damaged, or put there by "
    "somebody with an old secret.",
    "explain.relay_refused": "Somebody who holds the space's secret put forged entries into the mailbox at {address}. "
    "They were refused.",
    "explain.refused_down": "The relay {address} does not take what was filed here ({why}).",
    "explain.refused_full": "The relay {address} is full: it takes nothing until old messages have had their day. Use "
    "another one beside it.",
    "explain.refused_no_new_topics": "The relay {address} is nearly full and opens no new topics. Use another one "
    "beside it.",
    "explain.relay_waiting": "Not at the relay {address} yet, for {minutes} minutes: {count} entries. They go there "
    "behind a random delay, so that writing does not show; p2pnode sync appends them now.",
    "explain.relay_owed": "Not at the relay {address} yet, for {minutes} minutes: {count} entries.",
}
