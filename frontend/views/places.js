// Where a command can run, as a field of a form offers it.

import { listDjango, listProjects } from "../app/api.js";

export async function places(token) {
  const [projects, django] = await Promise.all([listProjects(token), listDjango(token)]);
  return { projects, django };
}

// The field; `bodyOfPlace` is what its value means in a request.
export const placeField = ({ projects, django }) => ({
  name: "place",
  label: "Where",
  type: "select",
  options: [
    ["", "your own workspace"],
    ...groupOf("Projects", projects.map(({ id, name }) => [`project:${id}`, name])),
    ...groupOf("Django projects", django.map(({ target, name }) => [target, name])),
  ],
});

const groupOf = (text, options) => (options.length ? [[text, options]] : []);

export const bodyOfPlace = (place) => (place ? { target: place } : {});

// The name of a target, as a person knows it.
export function targetText(target, { projects, django }) {
  if (target === "local") return "own workspace";
  const [kind, id] = target.split(/:(.*)/s);
  const known = [...projects, ...django].find((each) => [each.id, each.project_id].includes(id));
  return known ? `${kind} ${known.name}` : target;
}
