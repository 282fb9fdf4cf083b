package api

import (
	"encoding"
	"encoding/json"
	"net/http"
	"reflect"
	"strings"
	"time"
)

// object is a JSON object of the document.
type object = map[string]any

// openAPI writes the OpenAPI 3.1 document of these routes.
func openAPI(all []*route) []byte {
	w := documenter{schemas: object{}}
	paths := object{}
	for _, rt := range all {
		item, ok := paths[rt.path].(object)
		if !ok {
			item = object{}
			paths[rt.path] = item
		}
		item[strings.ToLower(rt.method)] = w.operation(rt)
	}
	doc := object{
		"openapi": "3.1.0",
		"info": object{
			"title": "refd", "version": "1",
			"description": "What refd, the reference daemon of weir, tells and takes. On the unix socket the caller is known by its user; over TCP " +
				"by a token or a session, whose cookie goes with the header " + keyHeader + ".",
			"license": object{"name": "Apache-2.0", "identifier": "Apache-2.0"},
		},
		"servers": []any{object{"url": "/"}},
		"paths":   paths,
		"components": object{
			"schemas": w.schemas,
			"securitySchemes": object{
				"token":      object{"type": "http", "scheme": "bearer"},
				"session":    object{"type": "apiKey", "in": "cookie", "name": cookieName},
				"sessionKey": object{"type": "apiKey", "in": "header", "name": keyHeader},
			},
		},
		"security": []any{object{"token": []any{}}, object{"session": []any{}, "sessionKey": []any{}}},
	}
	b, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		return []byte("{}") // it consists of texts, lists and maps
	}
	return b
}

func writeJSON(w http.ResponseWriter, b []byte) {
	w.Header().Set("Content-Type", "application/json")
	if _, err := w.Write(b); err != nil {
		return // the peer is gone
	}
}

// documenter collects the schemas of types.
type documenter struct{ schemas object }

func (d *documenter) operation(rt *route) object {
	problem := object{"description": "What is wrong.", "content": content("application/json", d.schema(reflect.TypeFor[Problem]()))}
	kind, schema := "application/json", d.schema(rt.out)
	if rt.kind != "" {
		kind, schema = rt.kind, object{"type": "string"}
	}
	op := object{
		"operationId": operationID(rt), "summary": rt.summary, "description": "Needs the role " + rt.role.String() + ".",
		"responses": object{
			"200":     object{"description": "Done.", "content": content(kind, schema)},
			"default": problem,
		},
	}
	if rt.role == NoRole {
		op["security"] = []any{}
	}
	if rt.hasBody() {
		op["requestBody"] = object{"required": true, "content": content("application/json", d.schema(rt.in))}
	}
	if params := d.parameters(rt.in); len(params) > 0 {
		op["parameters"] = params
	}
	return op
}

func content(kind string, schema any) object { return object{kind: object{"schema": schema}} }

// operationID is unique, and a word that a program can have.
func operationID(rt *route) string {
	name := strings.ToLower(rt.method)
	for part := range strings.FieldsFuncSeq(strings.TrimPrefix(rt.path, "/api/v1"), func(r rune) bool { return !('a' <= r && r <= 'z') }) {
		name += strings.ToUpper(part[:1]) + part[1:]
	}
	return name
}

// parameters lists what comes from the path and the query.
func (d *documenter) parameters(t reflect.Type) (all []any) {
	if t.Kind() != reflect.Struct {
		return nil
	}
	for f := range t.Fields() {
		if f.Anonymous {
			all = append(all, d.parameters(f.Type)...)
		}
		if name := f.Tag.Get("path"); name != "" {
			all = append(all, object{"name": name, "in": "path", "required": true, "schema": d.schema(f.Type)})
		}
		if name := f.Tag.Get("query"); name != "" {
			schema := d.schema(f.Type)
			if f.Type.Kind() == reflect.Slice {
				schema = object{"type": "array", "items": d.schema(f.Type.Elem())}
			}
			all = append(all, object{"name": name, "in": "query", "schema": schema})
		}
	}
	return all
}

// schema describes how a type is written as JSON.
func (d *documenter) schema(t reflect.Type) object {
	switch {
	case t == reflect.TypeFor[time.Time]():
		return object{"type": "string", "format": "date-time"}
	case t == reflect.TypeFor[time.Duration]():
		return object{"type": "integer", "description": "Nanoseconds."}
	case t.Implements(reflect.TypeFor[encoding.TextMarshaler]()), reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()):
		return object{"type": "string"}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return d.schema(t.Elem())
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.String:
		return object{"type": "string"}
	case reflect.Float32, reflect.Float64:
		return object{"type": "number"}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return object{"type": "integer"}
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return object{"type": "integer", "minimum": 0}
	case reflect.Slice, reflect.Array:
		// a nil slice is null
		return object{"type": []any{"array", "null"}, "items": d.schema(t.Elem())}
	case reflect.Map:
		return object{"type": []any{"object", "null"}, "additionalProperties": d.schema(t.Elem())}
	case reflect.Struct:
		return d.named(t)
	default:
		return object{} // anything
	}
}

// named describes a struct once, by its name.
func (d *documenter) named(t reflect.Type) object {
	name := schemaName(t)
	if _, known := d.schemas[name]; !known {
		d.schemas[name] = object{} // it may lead to itself
		properties := object{}
		d.fields(t, properties)
		d.schemas[name] = object{"type": "object", "properties": properties, "additionalProperties": false}
	}
	return object{"$ref": "#/components/schemas/" + name}
}

// fields adds the fields of a struct, and of those it embeds.
func (d *documenter) fields(t reflect.Type, properties object) {
	for f := range t.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous && name == "" {
			d.fields(f.Type, properties)
			continue
		}
		if !f.IsExported() || name == "-" || f.Tag.Get("path") != "" || f.Tag.Get("query") != "" {
			continue
		}
		if name == "" {
			name = f.Name
		}
		properties[name] = d.schema(f.Type)
	}
}

// schemaName is the package's name and the type's, but for our own types.
func schemaName(t reflect.Type) string {
	pkg := t.PkgPath()[strings.LastIndexByte(t.PkgPath(), '/')+1:]
	name := strings.ToUpper(t.Name()[:1]) + t.Name()[1:]
	if pkg == "api" {
		return name
	}
	return strings.ToUpper(pkg[:1]) + pkg[1:] + name
}
