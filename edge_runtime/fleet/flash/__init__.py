"""`edge-fleet flash`: a board's image with agent, identity, first bundle and network in it.

Everything happens in a file, as any user: no mount, no loop device, no root. `image` says in which
order; the other modules know one thing each: `source` (packed images), `partitions`, `fat`, `ext4`,
`system` (which OS this is), `identity`, `person`, `wifi`, `package`, `first_bundle`, `seed`,
`target` (the file that is made), `disk` (the card).
"""
