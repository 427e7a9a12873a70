"""Handlers of jobs whose tickets a test keeps."""

import asyncio

from holdfast.services.jobs import handler


@handler("echo", idempotent=True)
def echo(row: int) -> int:
    """Do nothing."""
    return row


@handler("nap", idempotent=True)
async def nap(row: int) -> int:
    """Wait a little."""
    await asyncio.sleep(0.04)
    return row
