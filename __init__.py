"""Wan Conductor: when, in what order, where, and through which prompts things happen in a Wan video."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    from .nodes import WanConductor

    return WanConductor()
