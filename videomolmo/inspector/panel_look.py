"""What is drawn: layers, opacity, marks, and the list of objects."""

from typing import Any

import ipywidgets as widgets

from videomolmo.inspector.desk import Desk
from videomolmo.inspector.figures import name_of
from videomolmo.inspector.inspection import LAYERS
from videomolmo.inspector.painting import LAYER_SIGNS, colour_of
from videomolmo.inspector.shown import listed
from videomolmo.inspector.widget_work import close_all

MARKS = {"points": "points", "ids": "numbers", "boxes": "boxes", "patterns": "patterns"}
TRAIL = 20


def section(text: str) -> widgets.HTML:
    """A heading inside the side column."""
    made = widgets.HTML(text)
    made.add_class("vm-section")
    return made


def tick(text: str, value: bool, act: Any, **options: Any) -> widgets.Checkbox:
    """A check box that calls `act(value)`."""
    box = widgets.Checkbox(value, description=text, indent=False, layout=widgets.Layout(width="135px"), **options)
    box.observe(lambda change: act(change["new"]), "value")
    return box


class LookPanel:
    """Layers, opacity and marks.

    Attributes:
        layers: layer to its check box.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self.layers = {name: tick(LAYER_SIGNS[name], name in desk.look.layers, self._layer) for name in LAYERS}
        self.opacity = widgets.FloatSlider(
            desk.look.opacity, min=0, max=1, step=0.05, description="opacity", readout_format=".2f",
            style={"description_width": "60px"}, layout=widgets.Layout(width="auto"),
        )  # fmt: skip
        self.opacity.observe(lambda change: desk.see(opacity=change["new"]), "value")
        marks = [tick(text, getattr(desk.look, name), self._mark(name)) for name, text in MARKS.items()]
        trail = tick("trails", desk.look.trail > 0, lambda on: desk.see(trail=TRAIL if on else 0))
        grid = widgets.Layout(grid_template_columns="135px 135px", grid_gap="0 4px")
        self.box = widgets.VBox([
            section("Layers"), widgets.GridBox(list(self.layers.values()), layout=grid), self.opacity,
            section("Marks"), widgets.GridBox([*marks, trail], layout=grid),
        ])  # fmt: skip
        self.refresh()
        desk.changed.append(self.refresh)

    def refresh(self) -> None:
        """Grey out what is not there in any result that is shown, and say why."""
        for name, box in self.layers.items():
            reasons = [one.layers()[name] for one in self._desk.shown]
            box.disabled = None not in reasons  # of two results one may have it
            box.tooltip = reasons[0] if box.disabled else f"show the {name} masks"

    def _layer(self, _: bool) -> None:
        self._desk.see(layers=tuple(name for name, box in self.layers.items() if box.value))

    def _mark(self, name: str) -> Any:
        return lambda on: self._desk.see(**{name: on})


class ObjectPanel:
    """A row for every object: colour and number, whether it is shown, its name.

    Attributes:
        rows: object id to (check box, text field).
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self.rows: dict[int, tuple[widgets.Checkbox, widgets.Text]] = {}
        self._list = widgets.VBox(layout=widgets.Layout(max_height="170px", overflow="hidden auto"))
        self.box = widgets.VBox([section("Objects"), self._list])
        self._of = desk.inspection
        self.refresh()
        desk.changed.append(self.refresh)

    def refresh(self) -> None:
        """Rows for the objects there are now; what was hidden stays hidden."""
        objects = self._desk.inspection.objects
        numbers = listed(objects)
        if list(self.rows) == list(numbers) and self.rows and self._of is self._desk.inspection:
            for number, (_, name) in self.rows.items():
                name.value = name_of(self._desk.inspection, number)
            return
        same = self._of is self._desk.inspection  # objects of another result have other numbers
        hidden = {number for number, (box, _) in self.rows.items() if same and not box.value}
        self._of = self._desk.inspection
        for line in self._list.children:
            close_all(line)
        self.rows, lines = {}, []
        for number in numbers:
            lines.append(self._row(number, number not in hidden))
        if len(numbers) < objects:
            lines.append(widgets.HTML(f"<i>and {objects - len(numbers)} more, which are shown</i>"))
        self._list.children = lines or [widgets.HTML("<i>no object was found</i>")]
        self._show(None)

    def _row(self, number: int, shown: bool) -> widgets.HBox:
        red, green, blue = colour_of(number)
        style = f"background:rgb({red},{green},{blue})"
        swatch = widgets.HTML(f'<span class="vm-swatch" style="{style}"></span> {number}')
        swatch.layout.width = "38px"
        box = widgets.Checkbox(
            shown, indent=False, layout=widgets.Layout(width="22px"), tooltip=f"show object {number}"
        )
        name = widgets.Text(
            name_of(self._desk.inspection, number), continuous_update=False,
            layout=widgets.Layout(width="auto", flex="1 1 auto", min_width="80px"),
        )  # fmt: skip
        box.observe(self._show, "value")
        name.observe(lambda change: self._name(number, change["new"]), "value")
        self.rows[number] = box, name
        return widgets.HBox([swatch, box, name], layout=widgets.Layout(align_items="center"))

    def _show(self, _: Any) -> None:
        shown = tuple(number for number, (box, _) in self.rows.items() if box.value)
        unlisted = range(len(self.rows) + 1, self._desk.inspection.objects + 1)
        self._desk.see(objects=None if len(shown) == len(self.rows) else (*shown, *unlisted))

    def _name(self, number: int, text: str) -> None:
        if text.strip() and text != self._desk.inspection.names.get(number):
            self._desk.inspection.names[number] = text.strip()
            self._desk.changed_data()
