"""A machine of its own for tests: Debian with systemd as its first process, in a container.

    with booted(Machine([tree], folder, address)) as machine:
        machine.sh("systemctl is-active edge-agent")

Root is needed, and systemd-nspawn; `host.missing()` says what is not here. Whatever becomes of a
test, its processes, mounts, links and control groups go with it.
"""
