"""A network camera: python mjpeg_camera.py PORT FPS serves motion JPEG at /camera.mjpg.

Its pictures are 320 x 240, orange (RGB 220, 120, 40), with a white bar that moves.
"""

import asyncio
import sys

import cv2
import numpy as np
from aiohttp import web

PORT, FPS = int(sys.argv[1]), float(sys.argv[2])


def jpeg(number: int) -> bytes:
    picture = np.full((240, 320, 3), (40, 120, 220), np.uint8)  # OpenCV's order is BGR
    left = number * 4 % 310
    picture[200:, left : left + 10] = 255
    return cv2.imencode(".jpg", picture)[1].tobytes()


async def camera(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "multipart/x-mixed-replace; boundary=frame"})
    await response.prepare(request)
    number = 0
    while True:
        data = jpeg(number)
        head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
        await response.write(head.encode() + data + b"\r\n")
        number += 1
        await asyncio.sleep(1 / FPS)


app = web.Application()
app.router.add_get("/camera.mjpg", camera)
web.run_app(app, host="127.0.0.1", port=PORT, print=None)
