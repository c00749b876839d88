"""A network camera with a password: python3 rtsp_camera.py PORT FILE.mp4 serves H.264 and AAC as rtsp://…:PORT/live.

Runs under the Python that has GStreamer's bindings, which is the system's. All who listen hear the same moment, as from
a camera; at the end of the file they are sent away, and who comes next hears it from its beginning.
"""

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtsp", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtsp, GstRtspServer  # noqa: E402  # their versions are chosen first

PORT, FILE, USER, PASSWORD = sys.argv[1:]

Gst.init(None)
factory = GstRtspServer.RTSPMediaFactory()
factory.set_launch(
    f'( filesrc location="{FILE}" ! qtdemux name=parts '
    "parts.video_0 ! queue ! rtph264pay name=pay0 config-interval=1 "
    "parts.audio_0 ! queue ! rtpmp4gpay name=pay1 )"
)
factory.set_shared(True)
allowed = "media.factory.access=(boolean)true, media.factory.construct=(boolean)true"
factory.add_role_from_structure(Gst.Structure.new_from_string(f"listener, {allowed}"))
listener = GstRtspServer.RTSPToken()
listener.set_string(GstRtspServer.RTSP_TOKEN_MEDIA_FACTORY_ROLE, "listener")
auth = GstRtspServer.RTSPAuth()
auth.set_supported_methods(GstRtsp.RTSPAuthMethod.DIGEST)
auth.add_digest(USER, PASSWORD, listener)
server = GstRtspServer.RTSPServer(address="127.0.0.1", service=PORT)
server.set_auth(auth)
server.get_mount_points().add_factory("/live", factory)
if not server.attach(None):
    sys.exit(f"port {PORT} is taken")
GLib.MainLoop().run()
