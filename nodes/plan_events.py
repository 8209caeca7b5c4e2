"""Plan Events: a first draft of an Event Schedule timeline, read from the prompt's own words of order."""

from comfy_api.latest import io

from ..guidance.event_plan import plan_timeline
from .shown import shown


class PlanEvents(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanConductorPlanEvents",
            display_name="Plan Events",
            category="Wan Conductor",
            description="Reads a prompt such as `a cat watches a bowl, then dips its paw` and drafts the timeline of Event Schedule, by "
            "rules for English, offline. The draft is shown here: connect it, or copy it into Event Schedule and change it.",
            search_aliases=["event planner", "prompt to timeline", "timeline draft", "first then finally", "story", "events"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.String.Input(
                    "prompt",
                    multiline=True,
                    dynamic_prompts=True,
                    placeholder="a cat watches a bowl, then dips its paw",
                    tooltip="The prompt that Conductor Text Encode gets too. Words such as first, then, after that, while and finally say "
                    "what comes when.",
                ),
            ],
            outputs=[
                io.String.Output(
                    display_name="timeline",
                    tooltip="For the timeline of Event Schedule: subjects with their events in order, in equal shares of the video.",
                ),
            ],
        )

    @classmethod
    def execute(cls, prompt: str) -> io.NodeOutput:
        timeline = plan_timeline(prompt)
        return io.NodeOutput(timeline, ui=shown(cls, timeline))
