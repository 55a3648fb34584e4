"""What ``twistd`` offers: ``rtunnel-proxy`` and ``rtunnel-agent``.

Nothing else belongs here: every start of ``twistd`` or ``trial`` on the machine may
import this file, and its names live on in plugin caches.
"""

from twisted.application.service import ServiceMaker

rtunnel_proxy = ServiceMaker(
    "rtunnel-proxy",
    "rtunnel.tap.proxy",
    "Accept tunnels from agents, and SSH clients that want through them.",
    "rtunnel-proxy",
)
rtunnel_agent = ServiceMaker(
    "rtunnel-agent",
    "rtunnel.tap.agent",
    "Dial out to rtunnel proxies and let their clients reach this network.",
    "rtunnel-agent",
)
