"""At home in web applications: Starlette, FastAPI, aiohttp, and CloudEvents over any of them.

Each module needs its framework, and none imports another's.
"""
